-- Text generation.

CREATE FUNCTION llm_generate(prompt text, max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_generate(text, int, float8, int, float8, text, int, bigint) IS
    'The prompt and its continuation by at most max_tokens tokens (64, or what fits the model); temperature 0 is '
    'greedy; eos 50256 stands for the model''s own end token, NULL or -1 for none; seed NULL is random';

CREATE FUNCTION _llm_generate_rows(prompt text, max_tokens int, temperature float8, topk int, topp float8, model text,
    eos int, seed bigint, OUT step int, OUT token_id int, OUT token text, OUT text text, OUT is_complete boolean)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 64 AS 'MODULE_PATHNAME', 'llm_generate_rows';
COMMENT ON FUNCTION _llm_generate_rows(text, int, float8, int, float8, text, int, bigint) IS
    'The rows that llm_generate_stream returns';

-- A plain SQL function that the planner inlines: a set-returning function in FROM would be materialised
-- before its first row is sent. Hence no STRICT, no SET, no SECURITY DEFINER here, and the C function in a
-- select list.
CREATE FUNCTION llm_generate_stream(prompt text, max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL)
    RETURNS TABLE (step int, token_id int, token text, text text, is_complete boolean)
    LANGUAGE sql STABLE ROWS 64 AS $$
    SELECT (r).step, (r).token_id, (r).token, (r).text, (r).is_complete FROM (
        SELECT @extschema@._llm_generate_rows(prompt, max_tokens, temperature, topk, topp, model, eos, seed) AS r) AS g
$$;
COMMENT ON FUNCTION llm_generate_stream(text, int, float8, int, float8, text, int, bigint) IS
    'llm_generate, with one row per token as soon as it is sampled: text is the whole text so far, token what this '
    'step added to it: nothing for an end token or part of a character, which appears when it is complete';

CREATE FUNCTION llm_next_tokens(prompt text, k int DEFAULT 10, model text DEFAULT @extschema@.llm_default_model(),
    OUT rank int, OUT token_id int, OUT token text, OUT probability float8) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_next_tokens(text, int, text) IS
    'The k most likely next tokens with their probabilities; k NULL shows every token';

CREATE FUNCTION llm_beam_search(prompt text, beam_width int DEFAULT 4, max_tokens int DEFAULT NULL,
    model text DEFAULT @extschema@.llm_default_model(), OUT rank int, OUT score float8, OUT text text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 4 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_beam_search(text, int, int, text) IS
    'The best continuations found by keeping beam_width at a time; score is the sum of log probabilities';

CREATE FUNCTION pg_llm_sample(logits tensor, temperature float8 DEFAULT 1.0, topk int DEFAULT 50,
    topp float8 DEFAULT 0.95, seed bigint DEFAULT NULL) RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_sample(tensor, float8, int, float8, bigint) IS
    'A token drawn from logits (V): temperature, then the topk most likely, then the fewest that reach probability '
    'topp; NULL: all of them';

CREATE FUNCTION pg_llm_sample(logits bytea, temperature float8 DEFAULT 1.0, topk int DEFAULT 50,
    topp float8 DEFAULT 0.95, seed bigint DEFAULT NULL) RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'pg_llm_sample_bytea';
COMMENT ON FUNCTION pg_llm_sample(bytea, float8, int, float8, bigint) IS 'The same over raw little-endian float32';
