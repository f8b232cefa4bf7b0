-- The classroom model's corpus, and an evaluation of models on it: by kind of token, against the true
-- distribution.

CREATE FUNCTION llm_story_dataset(dataset text, from_seed bigint, n int,
    model text DEFAULT @extschema@.llm_default_model()) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    end_token CONSTANT int := coalesce(@extschema@.llm_end_token(model), -1);
    rows bigint;
BEGIN
    IF dataset IS NULL OR from_seed IS NULL OR n IS NULL OR model IS NULL THEN
        RAISE EXCEPTION 'dataset, from_seed, n and model must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF n < 1 THEN
        RAISE EXCEPTION 'n is %, expected 1 or more stories', n USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM @extschema@._llm_progress_begin('load data', dataset, 'row', n);
    -- MATERIALIZED: otherwise each story would be generated once for tokens and once for target.
    WITH encoded AS MATERIALIZED (
        SELECT seed, @extschema@.llm_encode((@extschema@.llm_story(seed)).text, model) AS tokens
        FROM generate_series(from_seed, from_seed + n - 1) AS seed
        WHERE @extschema@._llm_progress_step('load data'))
    INSERT INTO @extschema@.llm_dataset (dataset, tokens, target)
        SELECT dataset, tokens, tokens[2:] || end_token FROM encoded ORDER BY seed;
    GET DIAGNOSTICS rows = ROW_COUNT;
    PERFORM @extschema@._llm_progress_end();
    RETURN rows;
END $$;
COMMENT ON FUNCTION llm_story_dataset(text, bigint, int, text) IS
    'Appends the stories of n seeds to a dataset, one per row: tokens (T) from the story''s first, targets shifted '
    'by one, the last the end token; returns the number of rows';

CREATE FUNCTION _llm_story_score(model text, from_seed bigint, n int, end_token int)
    RETURNS TABLE (kind text, tokens bigint, correct bigint, nats float8, true_nats float8, characters bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'llm_story_score';
COMMENT ON FUNCTION _llm_story_score(text, bigint, int, int) IS
    'Sums over the tokens of n stories that a model predicts, by kind: what llm_story_accuracy and llm_story_loss '
    'divide';

CREATE FUNCTION llm_story_accuracy(model text DEFAULT @extschema@.llm_default_model(), from_seed bigint DEFAULT -1000,
    n int DEFAULT 1000)
    RETURNS TABLE (kind text, tokens bigint, correct bigint, top1 float8, loss float8, floor float8)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE AS $$
    SELECT s.kind, s.tokens, s.correct, s.correct::float8 / s.tokens, s.nats / s.tokens, s.true_nats / s.tokens
    FROM @extschema@._llm_story_score(model, from_seed, n, @extschema@.llm_end_token(model)) AS s
$$;
COMMENT ON FUNCTION llm_story_accuracy(text, bigint, int) IS
    'How a model predicts the stories of n seeds (negative: held out), by kind of token: how often its first choice '
    'is the story''s (top1), its loss and the floor no model can beat, in nats per token';

CREATE FUNCTION llm_story_loss(model text DEFAULT @extschema@.llm_default_model(), from_seed bigint DEFAULT -1000,
    n int DEFAULT 1000, OUT tokens bigint, OUT loss float8, OUT floor float8, OUT above float8,
    OUT bits_per_character float8, OUT floor_bits float8)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE AS $$
    SELECT sum(s.tokens)::bigint, sum(s.nats) / sum(s.tokens), sum(s.true_nats) / sum(s.tokens),
        sum(s.nats) / sum(s.true_nats) - 1, sum(s.nats) / ln(2) / sum(s.characters),
        sum(s.true_nats) / ln(2) / sum(s.characters)
    FROM @extschema@._llm_story_score(model, from_seed, n, @extschema@.llm_end_token(model)) AS s
$$;
COMMENT ON FUNCTION llm_story_loss(text, bigint, int) IS
    'A model''s loss over the stories of n seeds beside the floor of the same stories, in nats per token and in '
    'bits per character; above: by which fraction of the floor it is higher';

CREATE FUNCTION _llm_story_attention(model text, from_seed bigint, n int, end_token int)
    RETURNS TABLE (node text, layer int, head int, kind text, tokens bigint, attention float8)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'llm_story_attention';
COMMENT ON FUNCTION _llm_story_attention(text, bigint, int, int) IS 'What llm_story_heads calls';

CREATE FUNCTION llm_story_heads(model text DEFAULT @extschema@.llm_default_model(), from_seed bigint DEFAULT -200,
    n int DEFAULT 200)
    RETURNS TABLE (node text, layer int, head int, kind text, tokens bigint, attention float8)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE AS $$
    SELECT a.* FROM @extschema@._llm_story_attention(model, from_seed, n, NULL) AS a
$$;
COMMENT ON FUNCTION llm_story_heads(text, bigint, int) IS
    'What each attention head attends to while a model predicts words that the stories of n seeds repeat: its mean '
    'attention, from 0 to 1, to the earlier positions of the token to be predicted, by kind; for song, object copy '
    'and surname copy only to positions right after an earlier occurrence of the current token';

CREATE FUNCTION llm_story_routing(model text DEFAULT @extschema@.llm_default_model(), from_seed bigint DEFAULT -100,
    n int DEFAULT 100)
    RETURNS TABLE (seed bigint, pos int, token text, kind text, layer int, choice int, expert int, share real)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE AS $$
    SELECT seed, t.pos, t.token, t.kind, r.layer, r.choice, r.expert, r.share
    FROM generate_series(from_seed, from_seed + n - 1) AS seed
    CROSS JOIN LATERAL (SELECT (@extschema@.llm_story(seed)).text AS text OFFSET 0) AS story
    CROSS JOIN LATERAL @extschema@.llm_routing(model, @extschema@.llm_encode(story.text, model)) AS r
    JOIN LATERAL @extschema@.llm_story_token(story.text) AS t ON t.pos = r.position + 2
$$;
COMMENT ON FUNCTION llm_story_routing(text, bigint, int) IS
    'Which experts of a mixture predict each token of the stories of n seeds (negative: held out), with the kind of '
    'the token that is predicted: a row for each token, layer and choice, as in llm_routing';
