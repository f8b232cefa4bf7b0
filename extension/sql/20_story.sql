-- Small stories whose next word has a known probability: a corpus with a known distribution.

CREATE FUNCTION llm_story(seed bigint, OUT text text, OUT logprob float8)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_story_sql';
COMMENT ON FUNCTION llm_story(bigint) IS
    'The story of a seed, at most 127 tokens, and the logarithm of its probability in nats; the same on every '
    'machine';

CREATE FUNCTION llm_story_next(prefix text) RETURNS TABLE (token text, probability float8)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 16 AS 'MODULE_PATHNAME', 'llm_story_next_sql';
COMMENT ON FUNCTION llm_story_next(text) IS
    'The true distribution of the token after the beginning of a story ('''' begins them all); no row after a whole '
    'story';

CREATE FUNCTION llm_story_token(story text) RETURNS TABLE (pos int, token text, true_logprob float8, kind text)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 112 AS 'MODULE_PATHNAME', 'llm_story_token_sql';
COMMENT ON FUNCTION llm_story_token(text) IS
    'Each token of a story or its beginning, from position 1, with the logarithm of its true probability in nats and '
    'what predicting it requires: syntax, choice, pronoun, song, object copy, surname copy, who, where, '
    'where-by-holder or recipient';

CREATE FUNCTION llm_story_floor(from_seed bigint, n int, OUT nats_per_token float8, OUT standard_error float8,
    OUT bits_per_character float8)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10000 AS 'MODULE_PATHNAME', 'llm_story_floor_sql';
COMMENT ON FUNCTION llm_story_floor(bigint, int) IS
    'The loss that no model can beat on average, from the stories of n seeds: nats per token with the standard '
    'error, and bits per character';
