-- The forward kernels over tensors and over bytea.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
CREATE FUNCTION refused(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text; hint text;
BEGIN
    EXECUTE query;
    RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || message || COALESCE(E'\n  ' || NULLIF(hint, ''), '');
END $$;

SELECT pg_llm_gelu('[-1,0,1,-inf,inf,NaN]'::tensor), pg_llm_gelu('[-1,0,1]'::tensor, exact => true);
SELECT pg_llm_softmax('[[1,2],[3,3]]'::tensor), pg_llm_softmax('[[1,2],[3,3]]'::tensor, 0), pg_llm_softmax('[1000,0]'::tensor), pg_llm_softmax('[-inf,0]'::tensor), pg_llm_softmax('[]'::tensor);
SELECT pg_llm_layernorm('[[1,2,3],[3,4,8]]'::tensor, '[1,1,2]', '[0,0,1]'), pg_llm_layernorm('[5,5]'::tensor, '[1,1]', '[0,0]', 0), pg_llm_layernorm('tensor(0,2) []'::tensor, '[1,1]', '[0,0]');
SELECT pg_llm_cross_entropy('[[1,2,3],[3,4,8]]'::tensor, ARRAY[2,0]), pg_llm_cross_entropy('[[1,2,3],[3,4,8]]'::tensor, ARRAY[2,-100]), pg_llm_cross_entropy('[1,2,3]'::tensor, 2),
    pg_llm_cross_entropy('[[[1,2]],[[3,4]]]'::tensor, '{{1},{0}}'::int[]);
SELECT pg_llm_embedding(ARRAY[1,0,1], '[[1,2],[3,4]]'::tensor), pg_llm_embedding('{{1,0}}', '[[1,2],[3,4]]'::tensor), shape(pg_llm_embedding('{}', '[[1,2],[3,4]]'::tensor));
SELECT pg_llm_transpose('[[1,2,3]]'::tensor), pg_llm_ones_like('[[1,2]]'::tensor), pg_llm_zeros_like('7'::tensor), pg_llm_matmul('[[1,2]]'::tensor, '[[3],[4]]'), pg_llm_add('[1,2]'::tensor, '[3]');
SELECT pg_llm_dropout('[1,2,3,4,5,6,7,8]'::tensor, 0.5, true, 3), pg_llm_dropout('[1,2,3,4]'::tensor, 0.5, false), pg_llm_dropout('[1,2]'::tensor, 1), pg_llm_dropout('[1,2]'::tensor, 0);
SELECT setseed(0.5);
CREATE TEMP TABLE drawn AS SELECT pg_llm_dropout(ones(ARRAY[64]), 0.5) t;
SELECT setseed(0.5);
SELECT t = pg_llm_dropout(ones(ARRAY[64]), 0.5) AS by_setseed FROM drawn;
SELECT t = pg_llm_dropout(ones(ARRAY[64]), 0.5) AS another FROM drawn;
SELECT abs(mean(pg_llm_dropout(ones(ARRAY[100000]), 0.1, true, 7))::real - 1) < 0.01;

-- Attention equals its composition from single operations.
CREATE TEMP TABLE att AS SELECT randn(ARRAY[5,6], 1) x, randn(ARRAY[6,18], 2) w_qkv, randn(ARRAY[18], 3) b_qkv, randn(ARRAY[6,6], 4) w_o, randn(ARRAY[6], 5) b_o;
WITH qkv AS (SELECT (x @ w_qkv) + b_qkv AS t FROM att),
    heads AS (SELECT h, slice(t, ARRAY[0, 2 * h], ARRAY[5, 2 * h + 2]) q, slice(t, ARRAY[0, 6 + 2 * h], ARRAY[5, 8 + 2 * h]) k, slice(t, ARRAY[0, 12 + 2 * h], ARRAY[5, 14 + 2 * h]) v FROM qkv, generate_series(0, 2) h),
    mask AS (SELECT stack(t ORDER BY i) t FROM (SELECT i, ARRAY(SELECT CASE WHEN j <= i THEN 0 ELSE '-Infinity'::real END FROM generate_series(1, 5) j)::tensor FROM generate_series(1, 5) i) v (i, t)),
    mixed AS (SELECT concat(array_agg(pg_llm_softmax(((q @ transpose(k)) / sqrt(2)) + mask.t) @ v ORDER BY h), 1) t FROM heads, mask)
SELECT ((mixed.t @ w_o) + b_o) ~= pg_llm_attention(x, w_qkv, b_qkv, w_o, b_o, 3) AS causal FROM mixed, att;
SELECT pg_llm_attention(x, w_qkv, b_qkv, w_o, b_o, 3) = reshape(pg_llm_attention(reshape(x, ARRAY[1,5,6]), w_qkv, b_qkv, w_o, b_o, 3), ARRAY[5,6]) AS batch,
    slice(pg_llm_attention(x, w_qkv, b_qkv, w_o, b_o, 3), 0, 2) = pg_llm_attention(slice(x, 0, 2), w_qkv, b_qkv, w_o, b_o, 3) AS past_only,
    slice(pg_llm_attention(x, w_qkv, b_qkv, w_o, b_o, 3, causal => false), 4) = slice(pg_llm_attention(x, w_qkv, b_qkv, w_o, b_o, 3), 4) AS last_sees_all,
    shape(pg_llm_attention(slice(x, 0, 0), w_qkv, b_qkv, w_o, b_o, 3)) AS empty FROM att;

SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    $$pg_llm_softmax('1'::tensor)$$, $$pg_llm_softmax('[1]'::tensor, 1)$$, $$pg_llm_layernorm('[1,2]'::tensor, '[1]', '[1,2]')$$, $$pg_llm_layernorm('[1,2]'::tensor, '[1,2]', '[[1,2]]')$$, $$pg_llm_layernorm('1'::tensor, '[1]', '[1]')$$,
    $$pg_llm_cross_entropy('[1,2]'::tensor, 2)$$, $$pg_llm_cross_entropy('[1,2]'::tensor, -1)$$, $$pg_llm_cross_entropy('[1,2]'::tensor, ARRAY[0,1])$$, $$pg_llm_cross_entropy('[1,2]'::tensor, ARRAY[NULL::int])$$, $$pg_llm_cross_entropy('[]'::tensor, 0)$$, $$pg_llm_cross_entropy('1'::tensor, 0)$$,
    $$pg_llm_embedding(ARRAY[2], '[[1],[2]]'::tensor)$$, $$pg_llm_embedding(ARRAY[-1], '[[1],[2]]'::tensor)$$, $$pg_llm_embedding(ARRAY[0], '[1]'::tensor)$$,
    $$pg_llm_dropout('[1]'::tensor, 1.5)$$, $$pg_llm_dropout('[1]'::tensor, 'NaN')$$, $$pg_llm_dropout('[1]'::tensor, -0.1, false)$$,
    $$pg_llm_attention('[[1,2]]', zeros(ARRAY[2,6]), zeros(ARRAY[6]), zeros(ARRAY[2,2]), zeros(ARRAY[3]), 1)$$, $$pg_llm_attention('[[1,2]]', zeros(ARRAY[2,6]), zeros(ARRAY[6]), zeros(ARRAY[2,2]), zeros(ARRAY[2]), 3)$$,
    $$pg_llm_attention('[[1,2]]', zeros(ARRAY[2,6]), zeros(ARRAY[6]), zeros(ARRAY[2,2]), zeros(ARRAY[2]), 0)$$, $$pg_llm_attention('[1,2]', zeros(ARRAY[2,6]), zeros(ARRAY[6]), zeros(ARRAY[2,2]), zeros(ARRAY[2]), 1)$$]) q;

-- Over bytea: the same values.
WITH b AS (SELECT randn(ARRAY[3,4], 1) a, randn(ARRAY[4,2], 2) b, randn(ARRAY[4], 3) g, randn(ARRAY[4], 4) h)
SELECT pg_llm_matmul(a::bytea, b::bytea, 3, 4, 2) = (a @ b)::bytea AS matmul, pg_llm_add(a::bytea, a::bytea) = (a + a)::bytea AS add, pg_llm_gelu(a::bytea) = pg_llm_gelu(a)::bytea AS gelu,
    pg_llm_softmax(g::bytea) = pg_llm_softmax(g)::bytea AS softmax, pg_llm_layernorm(a::bytea, g::bytea, h::bytea, 1e-5) = pg_llm_layernorm(a, g, h)::bytea AS layernorm,
    pg_llm_cross_entropy(g::bytea, 1) = pg_llm_cross_entropy(g, 1)::real AS cross_entropy, pg_llm_dropout(a::bytea, 0.5, true, 9) = pg_llm_dropout(a, 0.5, true, 9)::bytea AS dropout,
    pg_llm_dropout(a::bytea, 0.5, false) = a::bytea AS kept, pg_llm_transpose(a::bytea, 3, 4) = transpose(a)::bytea AS transpose, pg_llm_embedding(ARRAY[2,0], a::bytea, 4) = pg_llm_embedding(ARRAY[2,0], a)::bytea AS embedding,
    pg_llm_ones_like(g::bytea) = ones(ARRAY[4])::bytea AS ones, pg_llm_zeros_like(g::bytea) = zeros(ARRAY[4])::bytea AS zeros FROM b;
SELECT pg_llm_attention(x::bytea, w_qkv::bytea, b_qkv::bytea, w_o::bytea, b_o::bytea, 3, 5, 6) = pg_llm_attention(x, w_qkv, b_qkv, w_o, b_o, 3)::bytea AS attention FROM att;
SELECT pg_llm_softmax('\x'::bytea), pg_llm_gelu('\x'::bytea), pg_llm_matmul('\x', '\x', 0, 0, 0), pg_llm_matmul('\x', '\x', 1, 0, 1), pg_llm_gelu('\x0100a07f'::bytea);
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    $$pg_llm_gelu('\x00'::bytea)$$, $$pg_llm_add('\x00000000'::bytea, '\x')$$, $$pg_llm_matmul('\x00000000', '\x00000000', 1, 2, 1)$$, $$pg_llm_matmul('\x', '\x', -1, 0, 0)$$,
    $$pg_llm_matmul('\x', '\x', 2147483647, 0, 2147483647)$$, $$pg_llm_transpose('\x00000000', 2, 2)$$, $$pg_llm_transpose('\x', 2147483647, 2147483647)$$,
    $$pg_llm_layernorm('\x00000000'::bytea, '\x', '\x', 1e-5)$$, $$pg_llm_layernorm('\x00000000'::bytea, '\x0000000000000000', '\x0000000000000000', 1e-5)$$, $$pg_llm_cross_entropy('\x00000000'::bytea, 1)$$, $$pg_llm_cross_entropy('\x'::bytea, 0)$$,
    $$pg_llm_attention('\x', '\x', '\x', '\x', '\x', 1, 0, 0)$$, $$pg_llm_attention('\x', '\x', '\x', '\x', '\x', 1, -1, 4)$$, $$pg_llm_attention('\x0000803f', '\x000000000000000000000000', '\x000000000000000000000000', '\x00000000', '\x00000000', 2, 1, 1)$$,
    $$pg_llm_embedding(ARRAY[1], '\x00000000'::bytea, 1)$$, $$pg_llm_embedding(ARRAY[0], '\x00000000'::bytea, 0)$$, $$pg_llm_dropout('\x00000000'::bytea, 2, true)$$]) q;

DROP TABLE att, drawn;
DROP FUNCTION refused;
