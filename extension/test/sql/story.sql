-- Stories with a known distribution: the text of a seed, the next tokens, what each token requires, the floor.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_llm;
RESET client_min_messages;
\set VERBOSITY default
\pset format unaligned

SELECT text, round(logprob::numeric, 9) AS logprob FROM llm_story(1);
SELECT text FROM llm_story(-1);
SELECT * FROM llm_story(NULL);
SELECT count(DISTINCT s.text) FROM generate_series(1, 2000) AS seed, llm_story(seed) AS s;

-- The next tokens.
SELECT * FROM llm_story_next('');
SELECT * FROM llm_story_next('It was');
SELECT * FROM llm_story_next('It was May');
SELECT * FROM llm_story_next('It was May and the sea was calm');
SELECT * FROM llm_story_next((llm_story(1)).text);
SELECT * FROM llm_story_next(NULL);

-- What each token requires.
SELECT pos, token, round(true_logprob::numeric, 6) AS true_logprob, kind FROM llm_story_token('It was May. There was an old fan Anna');
SELECT kind, string_agg(token, '|' ORDER BY pos) AS tokens
FROM llm_story_token((llm_story(4)).text) WHERE kind NOT IN ('syntax', 'choice') GROUP BY kind ORDER BY kind;
SELECT string_agg(token, '' ORDER BY pos) = (llm_story(4)).text AS same, sum(true_logprob) = (llm_story(4)).logprob AS exact
FROM llm_story_token((llm_story(4)).text);

-- Generating and scoring agree: the product of the next tokens' probabilities is that of the whole story.
WITH told AS (
    SELECT seed, t.pos, t.token, t.true_logprob,
        coalesce(string_agg(t.token, '') OVER (PARTITION BY seed ORDER BY t.pos
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), '') AS prefix
    FROM generate_series(1, 20) AS seed, llm_story_token((llm_story(seed)).text) AS t)
SELECT count(*) AS tokens, bool_and(abs(n.total - 1) < 1e-12) AS sums_to_one, bool_and(n.words = n.distinct_words) AS one_derivation,
    bool_and(abs(ln(n.own) - true_logprob) < 1e-12) AS same_probability
FROM told, LATERAL (SELECT sum(probability) AS total, count(*) AS words, count(DISTINCT token) AS distinct_words,
    max(probability) FILTER (WHERE next.token = told.token) AS own FROM llm_story_next(prefix) AS next) AS n;

-- The floor.
SELECT round(nats_per_token::numeric, 6) AS nats_per_token, round(standard_error::numeric, 6) AS standard_error,
    round(bits_per_character::numeric, 6) AS bits_per_character FROM llm_story_floor(1, 2000);
SELECT abs(f.nats_per_token - s.mean) < 1e-12 AS is_the_mean
FROM llm_story_floor(9223372036854775800, 20) AS f,
    (SELECT -sum(t.true_logprob) / count(*) AS mean FROM generate_series(0, 19) AS i,
        llm_story_token((llm_story(CASE WHEN i < 8 THEN 9223372036854775800 + i
            ELSE -9223372036854775808 + (i - 8) END)).text) AS t) AS s;

-- Texts that are not stories.
SELECT * FROM llm_story_next('It was March.');
SELECT * FROM llm_story_next('It was ');
SELECT * FROM llm_story_next('It was May. There was an red');
SELECT * FROM llm_story_next('Once upon a time');
SELECT * FROM llm_story_token((llm_story(1)).text || ' It was');
SELECT count(*) FROM llm_story_token(repeat('It was May.', 100000));
SELECT * FROM llm_story_floor(1, 1);
