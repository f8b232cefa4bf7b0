-- Operators, functions and aggregates of tensors.
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

-- Arithmetic and broadcasting.
SELECT '[[1,2],[3,4]]'::tensor + '[10,20]' AS rows, '[[1],[2]]'::tensor * '[3,4]' AS outer_product, '[1,2]'::tensor - 1 AS number,
    2 / '[1,2]'::tensor AS left_number, '[1,2]'::tensor + '3' AS scalar, -'[1,-0,NaN]'::tensor AS negated;
SELECT '[1,2]'::tensor * 2::smallint, '[1,2]'::tensor * 2::bigint, '[1,2]'::tensor * 0.5, '[1,2]'::tensor * 0.5::real, 3::numeric - '[1,2]'::tensor;
SELECT '[1,-1,0]'::tensor / 0, '[inf]'::tensor - '[inf]', '[3e38]'::tensor * 10, '[]'::tensor + 1, '[[],[]]'::tensor + '[1]';
SELECT shape('tensor(0,3) []'::tensor * '[[1]]');
SELECT '[1]'::tensor + NULL IS NULL, NULL::tensor @ '[1]' IS NULL;
-- @ binds less tightly than + - * /
SELECT '[[1,2],[3,4]]'::tensor @ '[[1,2],[3,4]]', '[1,2]'::tensor @ '[3,4]', '[1,2]'::tensor @ '[[1,2],[3,4]]', '[[1,2],[3,4]]'::tensor @ '[1,2]',
    ('[[1,2],[3,4]]'::tensor @ '[1,2]') + '[1,1]' AS affine, '[[1,2],[3,4]]'::tensor @ '[1,2]'::tensor + '[1,1]' AS other;
SELECT '[[[1,2]],[[3,4]]]'::tensor @ '[[1],[1]]' AS batch, '[[[1,2]],[[3,4]]]'::tensor @ '[[[1],[1]],[[2],[2]]]' AS batches,
    '[[1,2]]'::tensor @ '[[[1],[1]],[[2],[2]]]' AS broadcast, '[[],[]]'::tensor @ 'tensor(0,2) []' AS empty;
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    $$'[[1,2,3],[4,5,6]]'::tensor + '[1,2]'$$, $$'[[1,2,3],[4,5,6]]'::tensor @ '[[1,2],[3,4]]'$$, $$'[1,2]'::tensor @ '[[1,2,3]]'$$,
    $$'[[1,2]]'::tensor @ '[[5,6]]'$$, $$'1'::tensor @ '[1]'$$, $$'[[[1]],[[2]]]'::tensor @ '[[[1]],[[2]],[[3]]]'$$,
    $$'[1]'::tensor * 1e300$$, $$zeros(ARRAY[100000,1]) + zeros(ARRAY[100000])$$, $$'tensor(0,3) []'::tensor + '[[1],[1]]'$$, $$zeros(ARRAY[-1])$$, $$zeros(ARRAY[NULL::int])$$,
    $$zeros(ARRAY[[1,2]])$$, $$ones(ARRAY[1,1,1,1,1,1,1,1,1])$$, $$eye(-1)$$]) q;

-- Elementwise functions do not hide PostgreSQL's own.
SELECT exp('[0,1,-inf,100]'::tensor), log('[1,0,-1]'::tensor), tanh('[0,1,inf]'::tensor), sqrt('[4,2,-1]'::tensor), relu('[-1,2,NaN]'::tensor);
SELECT pg_typeof(exp('1')), pg_typeof(sqrt('4')), pg_typeof(log('10')), pg_typeof(tanh('0')), pg_typeof(exp(1)), pg_typeof(sqrt(2.0)), pg_typeof(log(10)),
    pg_typeof(exp(1::real)), pg_typeof(log(2, 8)), pg_typeof(exp(NULL));
SELECT concat('a', 'b'), concat('a', 1), concat('a'), concat(1, 'a'), concat('a', NULL), concat('a', 'b', 'c'), concat(1, 2), concat('x', true), concat('a', 2::smallint);
SELECT pg_typeof(sum(x)), pg_typeof(avg(x)), pg_typeof(sum(x::real)), pg_typeof(sum(x::numeric)) FROM generate_series(1, 2) x;

-- Shapes, slices, concatenation.
SELECT shape('[[1,2,3],[4,5,6]]'), shape('1'), ndim('[[1]]'), numel('[[1,2,3],[4,5,6]]'), numel('[]');
SELECT reshape('[[1,2,3],[4,5,6]]', ARRAY[3,2]), reshape('[1,2,3,4]', ARRAY[2,-1]), reshape('5', ARRAY[1,1]), reshape('[5]', '{}');
SELECT transpose('[[1,2,3],[4,5,6]]'), transpose('[1,2]'), transpose('[[[1,2]],[[3,4]]]', ARRAY[2,0,1]), transpose('[[1,2]]', ARRAY[-1,0]);
SELECT slice('[[1,2],[3,4],[5,6]]', 1, 2), slice('[1,2,3,4]', -2), slice('[1,2,3,4]', 1, -1), slice('[1,2]', 2), slice('[[1,2,3],[4,5,6]]', ARRAY[0,1], ARRAY[2,3]),
    slice('[[1,2,3],[4,5,6]]', ARRAY[-1], ARRAY[2]), slice('[1]', '{}'::int[], '{}'), slice('[1]', NULL::int, 1), slice('[1,2]', 1, NULL);
SELECT concat(ARRAY['[1,2]'::tensor, '[3]']), concat(ARRAY['[[1],[2]]'::tensor, '[[3],[4]]'], 1), concat(ARRAY['[[1,2]]'::tensor], -1), concat(ARRAY['[]'::tensor, '[1]']);
SELECT tensor_get('[[1,2],[3,4]]', 1, 0), tensor_get('[[1,2],[3,4]]', -1, -1), tensor_get('[1,2]', VARIADIC ARRAY[1]), tensor_get('5', VARIADIC '{}');
SELECT * FROM tensor_rows('[[1,2],[3,4]]');
SELECT * FROM tensor_rows('5') UNION ALL SELECT * FROM tensor_rows('[]');
SELECT * FROM tensor_matrix('[[1,2,3],[4,5,6]]') WHERE j > 0;
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    $$reshape('[1,2,3]', ARRAY[2,2])$$, $$reshape('[1,2,3]', ARRAY[2,-1])$$, $$reshape('[1,2]', ARRAY[-1,-1])$$, $$reshape('[1,2]', ARRAY[-2])$$, $$reshape('[]', ARRAY[0,-1])$$,
    $$transpose('[[1,2]]', ARRAY[0])$$, $$transpose('[[1,2]]', ARRAY[0,0])$$, $$transpose('[[1,2]]', ARRAY[0,2])$$,
    $$slice('[1,2]', 0, 3)$$, $$slice('[1,2]', 2, 1)$$, $$slice('[1,2]', -3, 1)$$, $$slice('1', 0, 1)$$, $$slice('[1]', ARRAY[0,0], ARRAY[1,1])$$, $$slice('[1]', ARRAY[0], '{}')$$,
    $$concat(ARRAY['[1]'::tensor, '[[1]]'])$$, $$concat(ARRAY['[[1]]'::tensor, '[[1,2]]'])$$, $$concat(ARRAY['1'::tensor])$$, $$concat(ARRAY['[1]'::tensor, NULL])$$, $$concat('{}'::tensor[], 0)$$, $$concat(ARRAY['[1]'::tensor], 1)$$,
    $$tensor_get('[1,2]', 2)$$, $$tensor_get('[1,2]', -3)$$, $$tensor_get('[1,2]', 0, 0)$$, $$tensor_matrix('[1]')$$]) q;

-- Reductions.
SELECT axis, tensor_sum(t, axis), mean(t, axis), var(t, axis), norm(t, axis), tensor_max(t, axis), tensor_min(t, axis), argmax(t, axis)
    FROM (SELECT '[[3,4,0],[1,5,5]]'::tensor) v (t), unnest(ARRAY[NULL, 0, 1, -1, -2]) axis;
SELECT tensor_sum('[]'), mean('[]'), var('[]'), norm('[]'), tensor_sum('[[],[]]', 1), tensor_sum('[[],[]]', 0), tensor_max('[1,NaN,3]'), tensor_min('[1,NaN]'), argmax('[1,NaN,3]'),
    tensor_min('[-0,0]'), tensor_max('[[-inf],[-inf]]', 0), var('[5]'), argmax('7'), argmax('[[1,5],[7,2]]', 1)::int[];
SELECT tensor_sum(NULL), mean(NULL, 1) IS NULL;
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    $$tensor_sum('[1]', 1)$$, $$mean('[1]', -2)$$, $$var('1', 0)$$, $$tensor_max('[]')$$, $$argmax('[[],[]]', 1)$$]) q;

-- Constructors.
SELECT zeros(ARRAY[2,2]), ones('{3}'), eye(2), eye(0), zeros('{}'), ones(ARRAY[0]);
SELECT randn(ARRAY[3], 1), randn(ARRAY[3], 1) = slice(randn(ARRAY[5], 1), 0, 3) AS by_place, randn(ARRAY[3], 1) = randn(ARRAY[3], 2) AS by_seed;
SELECT abs(mean(t)::real) < 0.01, abs(var(t)::real - 1) < 0.01 FROM randn(ARRAY[100000], 42) t;

-- Comparing: same shape, same bits.
SELECT a, b, a::tensor = b::tensor AS eq, a::tensor < b::tensor AS lt, a::tensor ~= b::tensor AS close FROM (VALUES
    ('[1,2]', '[1,2]'), ('[0]', '[-0]'), ('[NaN]', '[NaN]'), ('[1]', '[[1]]'), ('[1]', '[1,0]'), ('[inf]', '[NaN]'), ('[1]', '[1.000001]'),
    ('[1]', '[1.1]'), ('[inf]', '[inf]'), ('[inf]', '[-inf]'), ('[-2]', '[-1]'), ('[]', '[]'), ('5', '[5]')) v (a, b);
SELECT tensor_close('[100]', '[101]', 0.01, 0), tensor_close('[100]', '[102]', 0.01, 0), tensor_close('[0]', '[0.1]', 0, 0.2);
CREATE TABLE compared (id int, t tensor);
INSERT INTO compared SELECT i, t FROM unnest(ARRAY['[1]', '[NaN]', '[-0]', '[0]', '[1]', '2', '[[1]]', '[-inf]', '[inf]', '[1,2]', NULL]::tensor[]) WITH ORDINALITY v (t, i);
SELECT t FROM compared ORDER BY t, id;
SELECT t, count(*) FROM compared GROUP BY t HAVING count(*) > 1;
CREATE INDEX compared_btree ON compared (t);
CREATE INDEX compared_hash ON compared USING hash (t);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM compared WHERE t > '[1]' ORDER BY t;
SELECT id FROM compared WHERE t > '[1]' ORDER BY t, id;
SET enable_hashjoin = on; SET enable_mergejoin = off; SET enable_nestloop = off; SET enable_indexscan = off; SET enable_bitmapscan = off;
SELECT a.id, b.id FROM compared a JOIN compared b USING (t) WHERE a.id < b.id;
RESET ALL;
DROP TABLE compared;

-- Aggregates: in the order of the rows, NULLs left out.
SELECT sum(t ORDER BY i), avg(t), stack(t ORDER BY i DESC) FROM (VALUES (1, '[1,2]'::tensor), (2, NULL), (3, '[3,5]')) v (i, t);
SELECT sum(t), avg(t), stack(t) FROM (SELECT NULL::tensor) v (t);
SELECT sum(t), avg(t), stack(t) FROM (SELECT '[1]'::tensor) v (t) WHERE false;
SELECT sum(t), stack(t) FROM (VALUES ('5'::tensor), ('6')) v (t);
SELECT stack(t), shape(stack(t)) FROM (VALUES ('[[],[]]'::tensor), ('[[],[]]')) v (t);
-- exact: (1e8 + 1) - 1e8 is 0 in float32, (1e8 - 1e8) + 1 is not
SELECT sum(t ORDER BY i), sum(t ORDER BY j) FROM (VALUES (1, 1, '1e8'::tensor), (2, 3, '1'), (3, 2, '-1e8')) v (i, j, t);
SELECT i, sum(t) OVER w, avg(t) OVER w, stack(t) OVER w FROM (VALUES (1, '[1,2]'::tensor), (2, NULL), (3, '[3,5]')) v (i, t) WINDOW w AS (ORDER BY i);
SELECT i % 2 AS odd, sum(t), stack(t ORDER BY i) FROM (SELECT i, ones(ARRAY[2]) * i FROM generate_series(1, 5) i) v (i, t) GROUP BY 1 ORDER BY 1;
SELECT shape(stack(t ORDER BY i)), stack(t ORDER BY i) = reshape(randn(ARRAY[3000], 5), ARRAY[1000,3])
    FROM (SELECT i, slice(randn(ARRAY[3000], 5), 3 * i, 3 * i + 3) FROM generate_series(0, 999) i) v (i, t);
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    $$sum(t) FROM (VALUES ('[1,2]'::tensor), (NULL), ('[1]')) v (t)$$, $$stack(t) FROM (VALUES ('[1]'::tensor), ('1')) v (t)$$,
    $$stack(t) FROM (VALUES (ones(ARRAY[1,1,1,1,1,1,1,1]))) v (t)$$]) q;

DROP FUNCTION refused;
