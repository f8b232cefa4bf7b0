-- The classroom's measures: rows of stories, accuracy by kind and loss beside the floor, what heads attend to.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- ids of rows count from 1
CREATE EXTENSION pg_llm;
SELECT llm_bpe_train('SELECT (llm_story(i)).text FROM generate_series(0, 4999) AS i', 2048, 'stories') AS tokens \gset
RESET client_min_messages;
SELECT llm_create_model('m', 1, 2, 8, 128, :tokens, tokenizer => 'stories');
SELECT llm_init_model('m', 1);

-- a story is a row
SELECT llm_story_dataset('m', 0, 3, 'm');
SELECT id, dataset, cardinality(tokens) AS "T", tokens[1:3] AS tokens, target[1:2] AS target,
    target[cardinality(target)] = llm_end_token('m') AS ends, llm_decode(tokens, 'm') = (llm_story(id - 1)).text AS same
FROM llm_dataset ORDER BY id;

-- an untrained model predicts uniformly: log(791) = 6.67
SELECT kind, tokens, correct, top1::numeric(5, 3), loss::numeric(8, 4), floor::numeric(8, 4) FROM llm_story_accuracy('m', -40, 40);
SELECT tokens, loss::numeric(8, 4), floor::numeric(8, 4), above::numeric(8, 4), bits_per_character::numeric(8, 4),
    floor_bits::numeric(8, 4) FROM llm_story_loss('m', -40, 40);
SELECT layer, head, kind, tokens, attention::numeric(8, 4) FROM llm_story_heads('m', -40, 40) WHERE kind IN ('song', 'who');

-- errors
SELECT llm_story_accuracy('m', -1, 0);
SELECT llm_story_accuracy('m', NULL, 1);
SELECT llm_story_accuracy('nobody', -1, 1);
SELECT llm_story_dataset('m', 0, NULL, 'm');
SELECT llm_story_dataset('m', 0, 0, 'm');
SELECT llm_create_model('short', 1, 1, 4, 16, :tokens, tokenizer => 'stories');
SELECT llm_init_model('short');
SELECT llm_story_heads('short', -1, 1);
SELECT llm_create_model('few', 1, 1, 4, 128, 700, tokenizer => 'stories');
SELECT llm_init_model('few');
SELECT llm_story_accuracy('few', -1, 1);
