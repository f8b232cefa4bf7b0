-- Where the time goes, and the matmul ladder: everything but the times.
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
INSERT INTO llm_bpe_vocab (model, token_id, token, bytes)
    SELECT 'costs', i, chr(97 + i), chr(97 + i)::bytea FROM generate_series(0, 25) AS i;
SELECT llm_create_model('costs', 2, 2, 8, 16, 26);
SELECT llm_init_model('costs', 1);

-- Operations and bytes are exact: an op's formula, whatever the time.
SELECT phase, op, node, calls, flops, bytes FROM llm_explain('costs', 'abcd', repeats => 1) WHERE phase IN ('prefill', 'decode');
SELECT phase, op, node, calls, flops, bytes FROM llm_explain('costs', 'abcd', 'op', 1) ORDER BY phase, op;
SELECT phase, count(*), min(calls), max(calls) FROM llm_explain('costs', 'abcd', 'node', 1) GROUP BY phase ORDER BY phase;
SELECT bool_and(microseconds >= 0 AND (share IS NULL OR share BETWEEN 0 AND 1)), abs(sum(share) - 1) < 0.01 AS whole
    FROM llm_explain('costs', 'abcd', 'node', 2);
-- A prompt that fills the positions leaves none for a decode step.
SELECT DISTINCT phase FROM llm_explain('costs', 'abcdefghijklmnop', 'op', 1) ORDER BY phase;
SELECT regexp_replace(line, '\d+\.\d+ (s|ms|us)|\d+\.\d+ (tokens/s|%)|\s+\d+(\.\d+)? (GFLOP/s|% of \w+)', '#', 'g') AS line
    FROM llm_explain_text('costs', 'abcd') AS line WHERE line !~ '->';
SELECT count(*) FROM llm_explain_text('costs', 'abcd', 'node', 1);
SELECT t, _llm_explain_time(t) FROM unnest(ARRAY[0, 3.14, 999.4, 999.5, 1500, 999499, 999500, 12345678]::float8[]) AS t;
-- Measuring changes nothing: the same text as without it, and the random stream is where it was.
SELECT llm_generate('abcd', 5, 0, model => 'costs') = (SELECT llm_generate('abcd', 5, 0, model => 'costs') FROM llm_explain('costs', 'abcd', 'op', 1) LIMIT 1) AS same;

SELECT refused($$SELECT llm_explain('costs', '')$$);
SELECT refused($$SELECT llm_explain('costs', NULL)$$);
SELECT refused($$SELECT llm_explain(NULL, 'a')$$);
SELECT refused($$SELECT llm_explain('costs', 'a', 'layer')$$);
SELECT refused($$SELECT llm_explain('costs', 'a', NULL)$$);
SELECT refused($$SELECT llm_explain('costs', 'a', repeats => 0)$$);
SELECT refused($$SELECT llm_explain('costs', repeat('a', 17))$$);
SELECT refused($$SELECT llm_explain('nobody', 'a')$$);
-- An error inside the measured statement ends the measurement.
SELECT count(*) > 0 FROM llm_explain('costs', 'a', 'op', 1);

SELECT step, rung, milliseconds > 0 AND gflops > 0 AS ran, same_bits, idea FROM llm_kernel_ladder(9, 130, 37);
SELECT rung, llm_matmul_rung(a, b, rung) = a @ b AS same_as_operator
    FROM unnest(ARRAY['naive', 'blocked', 'packed', 'vector', 'threads']) AS rung,
        (SELECT randn(ARRAY[5, 300], 1) AS a, randn(ARRAY[300, 33], 2) AS b) AS m;
SELECT llm_matmul_rung('[[1,2],[3,4]]', '[[5],[6]]', 'naive'), llm_matmul_rung(zeros(ARRAY[2,0]), zeros(ARRAY[0,2]), 'packed'),
    llm_matmul_rung(NULL, '[[1]]', 'naive') IS NULL;
SELECT refused($$SELECT llm_matmul_rung('[[1,2]]', '[[1,2]]', 'naive')$$);
SELECT refused($$SELECT llm_matmul_rung('[1,2]', '[[1],[2]]', 'naive')$$);
SELECT refused($$SELECT llm_matmul_rung('[[1]]', '[[1]]', 'fast')$$);
SELECT refused($$SELECT llm_kernel_ladder(0, 1, 1)$$);
SELECT refused($$SELECT llm_kernel_ladder(100000, 100000, 100000)$$);
DELETE FROM llm_bpe_vocab WHERE model = 'costs';
DELETE FROM llm_model_config WHERE model = 'costs';
DROP FUNCTION refused;
