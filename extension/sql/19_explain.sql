-- The time of a statement, broken down by op.

CREATE FUNCTION _llm_explain_rows(model text, prompt text, repeats int, OUT phase text, OUT tokens int, OUT step int,
    OUT node text, OUT op text, OUT microseconds float8, OUT flops bigint, OUT bytes bigint, OUT threads int,
    OUT peak_gflops float8, OUT peak_gb_s float8) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 200 AS 'MODULE_PATHNAME', 'llm_explain_rows';
COMMENT ON FUNCTION _llm_explain_rows(text, text, int) IS
    'What llm_explain adds up: each op of prefill and of one decode step, the parts of the statement around them, '
    'and the machine''s peak';

CREATE FUNCTION llm_explain(model text DEFAULT @extschema@.llm_default_model(),
    prompt text DEFAULT 'Once upon a time', by text DEFAULT 'part', repeats int DEFAULT 3)
    RETURNS TABLE (phase text, op text, node text, calls bigint, microseconds float8, share float8, flops bigint,
    bytes bigint, gflops float8, of_peak float8, of_bandwidth float8)
    LANGUAGE plpgsql VOLATILE ROWS 40 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF by IS NULL OR by NOT IN ('op', 'part', 'node') THEN
        RAISE EXCEPTION 'by is %; it must be op, part or node', coalesce(quote_literal(left(by, 100)), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'op: one row per kind of operation; part: one row for the same node of all layers; '
            'node: one row per node.';
    END IF;
    RETURN QUERY
    WITH rows AS MATERIALIZED (
        SELECT r.*, CASE by WHEN 'node' THEN r.node
            WHEN 'part' THEN regexp_replace(r.node, '\.\d+\.', '.*.', 'g') END AS part
        FROM @extschema@._llm_explain_rows(model, prompt, repeats) AS r
    ), sums AS (
        SELECT r.phase, r.op, r.part, min(r.step) AS step, count(*) AS calls, sum(r.microseconds) AS microseconds,
            sum(r.flops)::bigint AS flops, sum(r.bytes)::bigint AS bytes, max(r.peak_gflops) AS peak,
            max(r.peak_gb_s) AS read
        FROM rows AS r GROUP BY r.phase, r.op, r.part
    )
    SELECT s.phase, s.op, s.part, s.calls, round(s.microseconds::numeric, 2)::float8,
        CASE WHEN s.phase <> 'first' THEN round((s.microseconds
            / (SELECT nullif(sum(t.microseconds), 0) FROM sums AS t WHERE t.phase <> 'first'))::numeric, 4)::float8 END,
        s.flops, s.bytes, round(v.gflops::numeric, 2)::float8, round((v.gflops / s.peak)::numeric, 4)::float8,
        round((s.bytes / nullif(s.microseconds, 0) / 1e3 / s.read)::numeric, 4)::float8
    FROM sums AS s CROSS JOIN LATERAL (SELECT s.flops / nullif(s.microseconds, 0) / 1e3) AS v (gflops)
    ORDER BY array_position(ARRAY['prefill', 'decode', 'overhead', 'first'], s.phase),
        CASE WHEN by = 'op' AND s.flops IS NOT NULL THEN -s.microseconds ELSE s.step END;
END $$;
COMMENT ON FUNCTION llm_explain(text, text, text, int) IS
    'Where the time goes of SELECT llm_generate(prompt, 2, 0): prefill runs the prompt, decode one more token, '
    'overhead is the rest of the statement, PostgreSQL''s own part included; first is that of the session''s first '
    'such statement. by op, part (one row for all layers) or node. share of the whole, of_peak of the machine''s '
    'multiply-add peak, of_bandwidth of its memory reads (above 1: out of the cache); the fastest of this many '
    'repeats. Each op runs by itself here; an untimed run fuses bias, activation and residual sum with the matrix '
    'product before them, with the same bits and a little faster';

CREATE FUNCTION _llm_explain_time(microseconds float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN microseconds >= 999500 THEN to_char(microseconds / 1e6, 'FM9999990.00') || ' s'
        WHEN microseconds >= 999.5 THEN to_char(microseconds / 1e3, 'FM9990.00') || ' ms'
        ELSE to_char(microseconds, 'FM9990.0') || ' us' END
$$;
COMMENT ON FUNCTION _llm_explain_time(float8) IS 'Microseconds in readable form: 1.20 s, 3.45 ms, 6.7 us';

CREATE FUNCTION llm_explain_text(model text DEFAULT @extschema@.llm_default_model(),
    prompt text DEFAULT 'Once upon a time', by text DEFAULT 'op', repeats int DEFAULT 3) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE ROWS 40 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    tokens int;
    row record;
    phase text := '';
BEGIN
    FOR row IN
        SELECT e.*, sum(e.microseconds) OVER (PARTITION BY e.phase) AS spent
        FROM @extschema@.llm_explain(model, prompt, by, repeats) WITH ORDINALITY AS e ORDER BY e.ordinality
    LOOP
        IF row.phase <> phase THEN
            phase := row.phase;
            tokens := coalesce(tokens, cardinality(@extschema@.llm_encode(prompt, model)));
            RETURN NEXT format(CASE phase
                WHEN 'prefill' THEN '%s: %s tokens, %s, %s tokens/s'
                WHEN 'decode' THEN '%1$s: one token after %2$s, %3$s, %4$s tokens/s'
                WHEN 'overhead' THEN '%1$s around them: %3$s'
                ELSE 'around the first token of this session: %3$s' END,
                phase, tokens, @extschema@._llm_explain_time(row.spent),
                to_char(CASE phase WHEN 'prefill' THEN tokens ELSE 1 END * 1e6 / nullif(row.spent, 0), 'FM99999990.0'));
        END IF;
        RETURN NEXT rtrim(format('  ->  %s  calls %s  time %s%s%s%s%s',
            rpad(concat_ws(' ', row.op, row.node), CASE WHEN by = 'op' THEN 14 ELSE 36 END), lpad(row.calls::text, 3),
            lpad(@extschema@._llm_explain_time(row.microseconds), 10),
            '  ' || lpad(to_char(100 * row.share, 'FM990.0'), 5) || ' %',
            '  ' || lpad(to_char(row.gflops, 'FM99990.0'), 7) || ' GFLOP/s',
            '  ' || lpad(to_char(100 * row.of_peak, 'FM99990'), 3) || ' % of peak',
            '  ' || lpad(to_char(100 * row.of_bandwidth, 'FM99990'), 3) || ' % of bandwidth'));
    END LOOP;
END $$;
COMMENT ON FUNCTION llm_explain_text(text, text, text, int) IS
    'llm_explain as text, one line per row, like EXPLAIN ANALYZE';
