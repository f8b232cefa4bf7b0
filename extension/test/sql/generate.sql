-- Generation: greedy, sampled, streamed, beam search; the next tokens; sampling one token.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
\set SHOW_CONTEXT never

-- A model whose tokens are the letters from a to h.
SELECT llm_create_model('abc', 2, 2, 8, 24, 8);
SELECT llm_init_model('abc', 3);
UPDATE llm_param SET data = data * '12' WHERE model = 'abc' AND ndim(data) = 2;
INSERT INTO llm_bpe_vocab (model, token_id, token, bytes)
    SELECT 'abc', i, chr(97 + i), chr(97 + i)::bytea FROM generate_series(0, 7) AS i;
SET pg_llm.default_model = 'abc';

SELECT llm_generate('cab', 20, 0);
SELECT llm_generate('cab', 0);
SELECT length(llm_generate('cab', seed => 1)); -- what fits: the last token needs no position
SELECT s AS seed, llm_generate('cab', 20, seed => s) FROM generate_series(1, 4) AS s;
SELECT llm_generate('cab', 20, 0.5, 3, 0.9, seed => 1), llm_generate('cab', 20, 0.5, 3, 0.9, seed => 1);
SELECT llm_generate('cab', 20, 0, eos => 5), llm_generate('cab', 20, 0, eos => -1), llm_generate('cab', 20, 0, eos => NULL);
SELECT * FROM llm_generate_stream('cab', 6, 0);
SELECT * FROM llm_generate_stream('cab', 20, seed => 1) LIMIT 2;
SELECT p, step, text FROM (VALUES ('a'), ('b')) AS v (p), llm_generate_stream(p, 2, 0) ORDER BY p, step;
SELECT * FROM llm_next_tokens('cab', 3);
SELECT count(*), round(sum(probability)::numeric, 12) FROM llm_next_tokens('cab', NULL);
SELECT * FROM llm_beam_search('cab', 3, 5);
SELECT text = llm_generate('cab', 9, 0) FROM llm_beam_search('cab', 1, 9);

-- Penalties, limits and stop texts; many texts at a time.
SELECT llm_generate('cab', 20, 0, repetition_penalty => 1.5), llm_generate('cab', 20, 0, no_repeat_ngram => 2);
SELECT llm_generate('cab', 20, seed => 1, min_p => 0.5), llm_generate('cab', 20, seed => 1, stop => '{dh,ff}');
SELECT step, token, text, is_complete, logprob < 0 AS negative FROM llm_generate_stream('cab', 6, seed => 1, stop => '{hg}');
SELECT prompt, sample, text, sample_seed FROM llm_generate_batch('{cab,a}', 9, seed => 1, n => 2);
SELECT rank, text, token_ids FROM llm_beam_search('cab', 2, 5, temperature => 2, eos => 3);
SELECT shape(llm_embed('cab')), shape(llm_embed('cab', layer => 1, pooling => 'none'));

-- The model's own end token: it ends a text and starts one from nothing.
UPDATE llm_model_config SET options = '{"eos_token_id": 7}' WHERE model = 'abc';
SELECT llm_generate('', 5, 0), llm_generate('h', 5, 0);
SELECT step, token, is_complete FROM llm_generate_stream('cab', 20, seed => 2);
UPDATE llm_model_config SET options = '{}' WHERE model = 'abc';

-- A cursor fetches rows in any number.
BEGIN;
DECLARE c CURSOR FOR SELECT step, text FROM llm_generate_stream('cab', 9, 0);
FETCH 2 FROM c;
UPDATE llm_param SET data = -data WHERE model = 'abc'; -- a stream keeps the weights it began with
FETCH 2 FROM c;
ROLLBACK;
SELECT step, text FROM llm_generate_stream('cab', 9, 0) LIMIT 4;

-- Sampling one token from logits.
SELECT pg_llm_sample('[1,3,2]'::tensor, 0), pg_llm_sample('[1,3,3]'::tensor, 0), pg_llm_sample('[1,3,2]'::tensor, topk => 1);
SELECT pg_llm_sample('[0,0,0,0]'::tensor, seed => s) AS choice, count(*) FROM generate_series(1, 1000) AS s
    GROUP BY choice ORDER BY choice;
SELECT pg_llm_sample('[1,2,3,4]'::tensor, 1, NULL, 0.7, s) AS choice, count(*) FROM generate_series(1, 1000) AS s
    GROUP BY choice ORDER BY choice;
SELECT pg_llm_sample('[1,2,3,4]'::tensor::bytea, 1, 2, NULL, 5) = pg_llm_sample('[1,2,3,4]'::tensor, 1, 2, NULL, 5);

-- Errors.
SELECT llm_generate('cab', 23);
SELECT llm_generate('cab', -1);
SELECT llm_generate(repeat('a', 25));
SELECT llm_generate('');
SELECT llm_generate(NULL);
SELECT llm_generate('cab', 5, -1);
SELECT llm_generate('cab', 5, topk => -1);
SELECT llm_generate('cab', 5, topp => 0);
SELECT llm_generate('cab', 5, eos => 8);
SELECT llm_generate('cab', 5, stop => '{b,""}');
SELECT llm_generate('cab', 5, min_p => 1.0000001);
SELECT llm_generate('cab', 5, repetition_penalty => 0);
SELECT llm_generate('abcdefgh', 1, no_repeat_ngram => 1);
SELECT llm_generate_batch('{cab}', n => 0);
SELECT llm_generate('cab', model => 'nobody');
SELECT * FROM llm_next_tokens('cab', 0);
SELECT * FROM llm_beam_search('cab', 0);
SELECT * FROM llm_beam_search('cab', temperature => 0);
SELECT llm_embed('cab', layer => 9);
SELECT pg_llm_sample('[1,nan]'::tensor);
SELECT pg_llm_sample('[[1,2]]'::tensor);
BEGIN;
UPDATE llm_param SET data = data * 'nan' WHERE model = 'abc' AND name = 'ln_f.weight';
SELECT llm_generate('cab', 5);
ROLLBACK;
RESET pg_llm.default_model;
DELETE FROM llm_model_config WHERE model = 'abc';
DELETE FROM llm_bpe_vocab WHERE model = 'abc';
