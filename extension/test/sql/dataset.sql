-- Data in SQL: a tokenizer trained on a query's texts, texts as rows to train on.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
\set VERBOSITY default

CREATE TABLE rhyme (n int, line text);
INSERT INTO rhyme VALUES (1, 'the cat sat on the mat'), (2, 'the hat sat on the cat'), (3, NULL), (4, ''),
    (5, 'that cat<|endoftext|>that hat');

-- The most frequent pair first; the lowest ids among equals.
SELECT llm_bpe_train('SELECT line FROM rhyme', 268, 'rhyme');
SELECT rank, left_token, right_token FROM llm_bpe_merges WHERE model = 'rhyme' ORDER BY rank;
SELECT token_id, token, bytes, rank FROM llm_bpe_vocab WHERE model = 'rhyme' AND (token_id IN (0, 64, 255) OR token_id > 264)
ORDER BY token_id;
SELECT llm_encode('the cat<|endoftext|>sat', 'rhyme'), llm_encode('the cat<|endoftext|>sat', 'rhyme', true);
SELECT llm_decode(llm_encode(E'h\u00e9 \t \U0001F642', 'rhyme'), 'rhyme') = E'h\u00e9 \t \U0001F642' AS every_byte_is_a_token;

-- The order of rows does not matter; no pair spans rows or special tokens.
SELECT llm_bpe_train('SELECT line FROM rhyme ORDER BY n DESC', 268, 'backward');
SELECT count(*) FROM llm_bpe_merges a JOIN llm_bpe_merges b USING (rank, left_token, right_token)
WHERE a.model = 'rhyme' AND b.model = 'backward';
SELECT llm_bpe_train($$VALUES ('a'), ('b'), ('a'), ('b'), ('<|x|><|x|><|x|>')$$, 300, 'apart', '{<|x|>,<|y|>}');
SELECT token_id, token FROM llm_bpe_vocab WHERE model = 'apart' AND token_id > 255;
SELECT llm_bpe_train($$SELECT repeat('-', 10000) FROM generate_series(1, 3)$$, 300, 'dashes', '{}');
SELECT max(length(bytes)) FROM llm_bpe_vocab WHERE model = 'dashes';

-- Corpora that are not such a query; the query may not write.
SELECT llm_bpe_train('the cat sat', 300, 'new');
SELECT llm_bpe_train('', 300, 'new');
SELECT llm_bpe_train('SELECT n FROM rhyme', 300, 'new');
SELECT llm_bpe_train('SELECT n, line FROM rhyme', 300, 'new');
SELECT llm_bpe_train('SELECT FROM rhyme', 300, 'new');
SELECT llm_bpe_train('DELETE FROM rhyme RETURNING line', 300, 'new');
SELECT llm_bpe_train('SELECT 1; DROP TABLE rhyme', 300, 'new');
SELECT llm_bpe_train('WITH d AS (DELETE FROM rhyme RETURNING line) SELECT line FROM d', 300, 'new');
SELECT llm_bpe_train('SELECT line FROM no_such_table', 300, 'new');
SELECT llm_bpe_train('SELECT line FROM rhyme WHERE n BETWEEN 3 AND 4', 300, 'new');
-- Sizes, names and special tokens.
SELECT llm_bpe_train('SELECT line FROM rhyme', 256, 'new');
SELECT llm_bpe_train('SELECT line FROM rhyme', -1, 'new', '{}');
SELECT llm_bpe_train('SELECT line FROM rhyme', NULL, 'new');
SELECT llm_bpe_train('SELECT line FROM rhyme', 300, '');
SELECT llm_bpe_train('SELECT line FROM rhyme', 300, 'new', '{e}');
SELECT llm_bpe_train('SELECT line FROM rhyme', 300, 'new', '{<|a|>,<|a|>}');
SELECT llm_bpe_train('SELECT line FROM rhyme', 300, 'new', '{NULL}');
SELECT llm_bpe_train('SELECT line FROM rhyme', 300, 'rhyme');
SELECT llm_bpe_train('SELECT line FROM rhyme', 260, 'rhyme', truncate => true);
SELECT count(*) FROM llm_bpe_merges WHERE model = 'rhyme';
SELECT count(*) FROM llm_bpe_vocab WHERE model = 'new';
SELECT count(*) FROM rhyme;

-- Rows: each text is followed by the end token (259), targets are shifted by one, the last row is padded.
SELECT * FROM llm_dataset_load('lines', 'SELECT line FROM rhyme WHERE n < 5 ORDER BY n', 'rhyme', 12);
SELECT id, dataset, tokens, target FROM llm_dataset ORDER BY id;
-- An overlap, and rows held out, which have no token in common with their neighbours.
SELECT * FROM llm_dataset_load('lines', 'SELECT line FROM rhyme WHERE n < 5 ORDER BY n', 'rhyme', 8, 3, 0.25, true);
SELECT dataset, tokens, target FROM llm_dataset ORDER BY id;
-- Loading again appends.
SELECT * FROM llm_dataset_load('lines', 'SELECT ''the''', 'rhyme', 8);
SELECT count(*) FROM llm_dataset;
-- A model determines block size and end token.
SELECT llm_create_model('rhymer', 0, 1, 4, 16, 260, tokenizer => 'rhyme', options => '{"eos_token_id": 0}');
SELECT llm_end_token('rhymer'), llm_end_token('rhyme'), llm_end_token('apart'), llm_end_token('nobody');
SELECT * FROM llm_dataset_load('by model', 'SELECT line FROM rhyme WHERE n = 1', 'rhymer');
SELECT cardinality(tokens), tokens[16], target[7:9] FROM llm_dataset WHERE dataset = 'by model' ORDER BY id;
SELECT * FROM llm_dataset_load('by model', 'SELECT line FROM rhyme', 'rhymer', 17);
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'rhyme');
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'rhyme', 0);
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'rhyme', 8, 8);
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'rhyme', 8, validation => 1);
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'rhyme', 8, validation => 'nan');
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'nobody', 8);
SELECT * FROM llm_dataset_load('', 'SELECT line FROM rhyme', 'rhyme', 8);
SELECT * FROM llm_dataset_load(NULL, 'SELECT line FROM rhyme', 'rhyme', 8);
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme WHERE n = 4', 'rhyme', 8);
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme WHERE n IN (1, 2)', 'dashes', 40);

-- Rows that are refused.
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('x', '{1,2}', '{2}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('x', '{}', '{}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('x', '{1,NULL}', '{1,2}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('x', '{1,-1}', '{1,2}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('x', '{1,2}', '{1,NULL}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('x', '{{1,2}}', '{{2,3}}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('', '{1}', '{2}');
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('own', '{1,2}', '{2,-1}') RETURNING dataset;

-- With the caller's rights.
CREATE ROLE regress_learner;
GRANT SELECT ON llm_bpe_vocab, llm_bpe_merges, llm_model_config, llm_model_version TO regress_learner;
SET ROLE regress_learner;
SELECT llm_bpe_train('SELECT line FROM rhyme', 300, 'new');
SELECT * FROM llm_dataset_load('x', 'SELECT line FROM rhyme', 'rhyme', 8);
SELECT * FROM llm_dataset_load('x', 'SELECT ''the cat sat''', 'rhyme', 8);
RESET ROLE;
GRANT INSERT, DELETE ON llm_bpe_vocab, llm_bpe_merges TO regress_learner;
GRANT SELECT ON rhyme TO regress_learner;
SET ROLE regress_learner;
SELECT llm_bpe_train('SELECT line FROM rhyme', 260, 'new');
RESET ROLE;
DROP OWNED BY regress_learner;
DROP ROLE regress_learner;

-- Rolled back with the transaction.
BEGIN;
SELECT llm_bpe_train('SELECT line FROM rhyme', 261, 'rhyme', truncate => true), cardinality(llm_encode('the cat', 'rhyme'));
ROLLBACK;
SELECT cardinality(llm_encode('the cat', 'rhyme'));
