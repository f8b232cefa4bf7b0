-- Text generation.

CREATE FUNCTION llm_generate(prompt text, max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, repetition_penalty float8 DEFAULT 1.0,
    min_p float8 DEFAULT 0.0, no_repeat_ngram int DEFAULT 0, special boolean DEFAULT false) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_generate(text, int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int, boolean) IS
    'The prompt and its continuation by at most max_tokens tokens (64, or what fits the model); temperature 0 is '
    'greedy; eos 50256 stands for the model''s own end token, NULL or -1 for none; seed NULL is random; the text ends '
    'before the first of the stop texts; repetition_penalty above 1 makes tokens that have occurred less likely; '
    'min_p drops tokens with less than this fraction of the most likely one''s probability; no sequence of '
    'no_repeat_ngram tokens occurs twice. As in transformers, the penalties count the prompt, too; special: the text '
    'of a special token in the prompt becomes that token';

CREATE FUNCTION llm_generate_batch(prompts text[], max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, repetition_penalty float8 DEFAULT 1.0,
    min_p float8 DEFAULT 0.0, no_repeat_ngram int DEFAULT 0, n int DEFAULT 1, special boolean DEFAULT false,
    OUT prompt int, OUT sample int, OUT text text, OUT token_ids int[], OUT logprob float8, OUT sample_seed bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 16 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_generate_batch(text[], int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int, int, boolean) IS
    'n continuations of each prompt, many at a time, which is faster than one by one: each text is that of '
    'llm_generate with sample_seed, bit for bit, which is seed + sample - 1, random if seed is NULL; prompt and sample '
    'count from 1; token_ids are prompt and continuation, logprob is the continuation''s log probability under the '
    'model';

CREATE FUNCTION _llm_generate_rows(prompt text, max_tokens int, temperature float8, topk int, topp float8, model text,
    eos int, seed bigint, stop text[], repetition_penalty float8, min_p float8, no_repeat_ngram int, special boolean,
    OUT step int, OUT token_id int, OUT token text, OUT text text, OUT is_complete boolean, OUT logprob float8)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 64 AS 'MODULE_PATHNAME', 'llm_generate_rows';
COMMENT ON FUNCTION _llm_generate_rows(text, int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int, boolean) IS
    'The rows that llm_generate_stream returns';

-- A plain SQL function that the planner inlines: a set-returning function in FROM would be materialised
-- before its first row is sent. Hence no STRICT, no SET, no SECURITY DEFINER here, and the C function in a
-- select list.
CREATE FUNCTION llm_generate_stream(prompt text, max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, repetition_penalty float8 DEFAULT 1.0,
    min_p float8 DEFAULT 0.0, no_repeat_ngram int DEFAULT 0, special boolean DEFAULT false)
    RETURNS TABLE (step int, token_id int, token text, text text, is_complete boolean, logprob float8)
    LANGUAGE sql STABLE ROWS 64 AS $$
    SELECT (r).step, (r).token_id, (r).token, (r).text, (r).is_complete, (r).logprob FROM (
        SELECT @extschema@._llm_generate_rows(prompt, max_tokens, temperature, topk, topp, model, eos, seed, stop,
            repetition_penalty, min_p, no_repeat_ngram, special) AS r) AS g
$$;
COMMENT ON FUNCTION llm_generate_stream(text, int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int, boolean) IS
    'llm_generate, with one row per token as soon as it is sampled: text is the whole text so far, token what this '
    'step added to it: nothing for an end token, or for part of a character or of a stop text; logprob is the '
    'token''s log probability under the model, before temperature, penalties and limits';

CREATE FUNCTION llm_next_tokens(prompt text, k int DEFAULT 10, model text DEFAULT @extschema@.llm_default_model(),
    special boolean DEFAULT false, OUT rank int, OUT token_id int, OUT token text, OUT probability float8)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_next_tokens(text, int, text, boolean) IS
    'The k most likely next tokens with their probabilities; k NULL shows every token';

CREATE FUNCTION llm_beam_search(prompt text, beam_width int DEFAULT 4, max_tokens int DEFAULT NULL,
    model text DEFAULT @extschema@.llm_default_model(), temperature float8 DEFAULT 1.0, eos int DEFAULT 50256,
    special boolean DEFAULT false, OUT rank int, OUT score float8, OUT text text, OUT token_ids int[])
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 4 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_beam_search(text, int, int, text, float8, int, boolean) IS
    'The best continuations found by keeping beam_width at a time; score is the sum of log probabilities, of the '
    'logits divided by temperature; token_ids are prompt and continuation, the end token included';

-- Prompts of tokens.
CREATE FUNCTION llm_generate(prompt int[], max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, repetition_penalty float8 DEFAULT 1.0,
    min_p float8 DEFAULT 0.0, no_repeat_ngram int DEFAULT 0) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'llm_generate';
COMMENT ON FUNCTION llm_generate(int[], int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int) IS
    'The same for a prompt of tokens, as llm_encode makes them';

CREATE FUNCTION _llm_generate_rows(prompt int[], max_tokens int, temperature float8, topk int, topp float8, model text,
    eos int, seed bigint, stop text[], repetition_penalty float8, min_p float8, no_repeat_ngram int,
    OUT step int, OUT token_id int, OUT token text, OUT text text, OUT is_complete boolean, OUT logprob float8)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 64 AS 'MODULE_PATHNAME', 'llm_generate_rows';
COMMENT ON FUNCTION _llm_generate_rows(int[], int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int) IS
    'The rows that llm_generate_stream of tokens returns';

CREATE FUNCTION llm_generate_stream(prompt int[], max_tokens int DEFAULT NULL, temperature float8 DEFAULT 1.0,
    topk int DEFAULT 50, topp float8 DEFAULT 0.95, model text DEFAULT @extschema@.llm_default_model(),
    eos int DEFAULT 50256, seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, repetition_penalty float8 DEFAULT 1.0,
    min_p float8 DEFAULT 0.0, no_repeat_ngram int DEFAULT 0)
    RETURNS TABLE (step int, token_id int, token text, text text, is_complete boolean, logprob float8)
    LANGUAGE sql STABLE ROWS 64 AS $$
    SELECT (r).step, (r).token_id, (r).token, (r).text, (r).is_complete, (r).logprob FROM (
        SELECT @extschema@._llm_generate_rows(prompt, max_tokens, temperature, topk, topp, model, eos, seed, stop,
            repetition_penalty, min_p, no_repeat_ngram) AS r) AS g
$$;
COMMENT ON FUNCTION llm_generate_stream(int[], int, float8, int, float8, text, int, bigint, text[], float8, float8,
    int) IS
    'The same for a prompt of tokens, as llm_encode makes them';

CREATE FUNCTION llm_next_tokens(prompt int[], k int DEFAULT 10, model text DEFAULT @extschema@.llm_default_model(),
    OUT rank int, OUT token_id int, OUT token text, OUT probability float8) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME', 'llm_next_tokens';
COMMENT ON FUNCTION llm_next_tokens(int[], int, text) IS
    'The same for a prompt of tokens, as llm_encode makes them';

CREATE FUNCTION llm_beam_search(prompt int[], beam_width int DEFAULT 4, max_tokens int DEFAULT NULL,
    model text DEFAULT @extschema@.llm_default_model(), temperature float8 DEFAULT 1.0, eos int DEFAULT 50256,
    OUT rank int, OUT score float8, OUT text text, OUT token_ids int[]) RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 4 AS 'MODULE_PATHNAME', 'llm_beam_search';
COMMENT ON FUNCTION llm_beam_search(int[], int, int, text, float8, int) IS
    'The same for a prompt of tokens, as llm_encode makes them';

CREATE FUNCTION pg_llm_sample(logits tensor, temperature float8 DEFAULT 1.0, topk int DEFAULT 50,
    topp float8 DEFAULT 0.95, seed bigint DEFAULT NULL, min_p float8 DEFAULT 0.0) RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_sample(tensor, float8, int, float8, bigint, float8) IS
    'A token drawn from logits (V): temperature, then the topk most likely, then the fewest that reach probability '
    'topp, of them those with min_p of the best one''s probability; NULL: all of them';

CREATE FUNCTION pg_llm_sample(logits bytea, temperature float8 DEFAULT 1.0, topk int DEFAULT 50,
    topp float8 DEFAULT 0.95, seed bigint DEFAULT NULL, min_p float8 DEFAULT 0.0) RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'pg_llm_sample_bytea';
COMMENT ON FUNCTION pg_llm_sample(bytea, float8, int, float8, bigint, float8) IS
    'The same over raw little-endian float32';

CREATE FUNCTION llm_embed(text text, model text DEFAULT @extschema@.llm_default_model(), layer int DEFAULT -1,
    pooling text DEFAULT 'mean') RETURNS tensor
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    tokens int[];
    layers int;
    number int := layer;
    x @extschema@.tensor; -- (T,C)
BEGIN
    IF text IS NULL OR model IS NULL OR layer IS NULL OR pooling IS NULL THEN
        RAISE EXCEPTION 'text, model, layer and pooling must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF pooling NOT IN ('mean', 'max', 'first', 'last', 'none') THEN
        RAISE EXCEPTION 'pooling is "%"; it must be mean, max, first, last or none', left(pooling, 100)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'none returns the vectors of all tokens, (T,C).';
    END IF;
    layers := (@extschema@.llm_get_model_config(model)).n_layer;
    IF layer < -layers - 1 OR layer > layers THEN
        RAISE EXCEPTION 'layer is %; model "%" has 0, its embedding, to %', layer, model, layers
            USING ERRCODE = 'invalid_parameter_value', HINT = '-1 is the last one, after the final layer norm.';
    ELSIF layer < 0 THEN
        number := layers + 1 + layer;
    END IF;
    tokens := @extschema@.llm_encode(text, model);
    IF tokens = '{}' THEN
        RAISE EXCEPTION 'the text is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A vector is computed from at least one token.';
    END IF;
    x := @extschema@.llm_eval(model,
        (SELECT CASE number WHEN layers THEN a.norm WHEN 0 THEN a.stream
                ELSE replace(a.layer, '%', (number - 1)::text) END
            FROM @extschema@.llm_architecture AS a WHERE a.architecture = coalesce(
                (@extschema@.llm_get_model_config(model)).options ->> 'architecture', 'gpt2')),
        jsonb_build_object('tokens', tokens));
    x := @extschema@.reshape(x, (@extschema@.shape(x))[2:]);
    RETURN CASE pooling WHEN 'none' THEN x
        WHEN 'mean' THEN @extschema@.mean(x, 0)
        WHEN 'max' THEN @extschema@.tensor_max(x, 0)
        WHEN 'first' THEN @extschema@.reshape(@extschema@.slice(x, 0, 1), (@extschema@.shape(x))[2:])
        ELSE @extschema@.reshape(@extschema@.slice(x, -1, cardinality(tokens)), (@extschema@.shape(x))[2:]) END;
END $$;
COMMENT ON FUNCTION llm_embed(text, text, int, text) IS
    'A text as a vector (C): the residual stream after a layer, pooled over the tokens by mean, max, first or last '
    '(none: (T,C)); layer counts as transformers'' hidden_states: 0 is the embedding, -1 the last, after the final '
    'layer norm';
