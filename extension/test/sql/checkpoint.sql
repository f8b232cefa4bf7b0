-- Checkpoints in the database, the hash of a model, replay: the same on every server.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
\set SHOW_CONTEXT never

SELECT llm_create_model('c', 1, 2, 8, 8, 10), llm_init_model('c', 7);
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('c', '{1,2,3,4}', '{2,3,4,5}'), ('c', '{7,6,5}', '{6,5,-1}'),
    ('c', '{9,9}', '{9,0}');
SELECT llm_model_sha256('c');
SELECT llm_checkpoint_save('c', 'before training') AS before \gset
SELECT llm_train('c', 3, lr_max => 0.01, warmup => 1, batch_size => 2, dropout_p => 0.2, seed => 5);
SELECT llm_checkpoint_save('c', 'after three steps') AS three \gset
SELECT llm_train('c', 2, lr_max => 0.01, warmup => 1, batch_size => 2, grad_clip => 0.5);
SELECT model, step, note, parameters, bytes, location, format, sha256, model_sha256 FROM llm_checkpoint ORDER BY id;
SELECT model_sha256 = llm_model_sha256('c') AS unchanged FROM llm_checkpoint ORDER BY id;
SELECT count(*), count(*) FILTER (WHERE name LIKE 'optimizer.m.%') AS m FROM llm_checkpoint_param GROUP BY checkpoint ORDER BY checkpoint;

-- Every step computed again from the log; then a return to the third step.
SELECT step, loss, matches, weights_match, replace(compared_with, :'three', 'three') AS compared_with FROM llm_replay('c', :before);
SELECT llm_checkpoint_load('c', :three);
SELECT llm_model_sha256('c') = model_sha256 AS back FROM llm_checkpoint WHERE id = :three;
SELECT DISTINCT step FROM llm_param WHERE model = 'c';
SELECT llm_checkpoint_load('copy', :three);
SELECT llm_model_sha256('copy') = llm_model_sha256('c') AS same, llm_logits('{1,2}', 'copy') = llm_logits('{1,2}', 'c') AS logits;

-- Errors.
SELECT llm_checkpoint_save('nobody');
SELECT llm_checkpoint_save('gpt2-xl');
SELECT llm_checkpoint_save('c', location => 'file');
SELECT llm_checkpoint_save('c', location => '/tmp/c.safetensors');
SELECT llm_checkpoint_save('c', format => 'onnx');
SELECT llm_checkpoint_load('c', 0);
SELECT llm_checkpoint_delete(0);
SET pg_llm.checkpoint_dir = 'here';
UPDATE llm_checkpoint_param SET data = data + 1 WHERE checkpoint = :three AND name = 'ln_f.bias';
DO $$
BEGIN
    PERFORM llm_checkpoint_load('c', (SELECT max(id) FROM llm_checkpoint));
EXCEPTION WHEN data_corrupted THEN
    RAISE WARNING 'refused: %', regexp_replace(sqlerrm, 'checkpoint \d+', 'checkpoint N');
END $$;
SELECT llm_checkpoint_delete(id) FROM llm_checkpoint;
SELECT count(*) FROM llm_checkpoint_param;
DELETE FROM llm_model_config WHERE model IN ('c', 'copy');
DELETE FROM llm_train_run WHERE model = 'c';
DELETE FROM llm_dataset WHERE dataset = 'c';
