-- Training: runs and their log, the loop, shared parameters, errors. Losses are the same bits everywhere.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- ids of rows and runs count from 1
CREATE EXTENSION pg_llm;
RESET client_min_messages;
SELECT llm_create_model('m', 1, 2, 8, 16, 26);
SELECT llm_init_model('m', 1);
INSERT INTO llm_dataset (dataset, tokens, target)
    SELECT 'm', array_agg((i * j) % 26), array_agg((i * j + i) % 26)
    FROM generate_series(1, 5) AS i, generate_series(1, 8) AS j GROUP BY i ORDER BY i;

-- one step, rolled back and committed
BEGIN;
SAVEPOINT before;
SELECT llm_train_step('m', 1, lr_max => 0.01);
SELECT max(step) FROM llm_param;
ROLLBACK TO before;
SELECT max(step), count(m), count(v) FROM llm_param;
SELECT count(*) FROM llm_train_log;
SELECT llm_train_step('m', 1, lr_max => 0.01);
COMMIT;

-- a run in one transaction
SELECT llm_train('m', 6, lr_max => 0.01, warmup => 2, min_lr => 0.001, batch_size => 2, accumulation => 2, grad_clip => 1, seed => 7);
SELECT run, step, lr::numeric(10, 8), loss, grad_norm::numeric(10, 6), tokens, rows FROM llm_train_log ORDER BY id;
SELECT model, dataset, dataset_rows, first_step, n_steps, lr_max, min_lr, warmup, beta1, beta2, eps, wd, grad_clip, dropout_p,
    batch_size, accumulation, seed FROM llm_train_run ORDER BY run;

-- the same run by the loop, stopped once: the same bits
CREATE TABLE one_call AS SELECT name, data, m, v, step FROM llm_param;
SELECT llm_init_model('m', 1);
SELECT llm_train_step('m', 1, lr_max => 0.01);
CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stopped'; END $$;
CREATE TRIGGER stop BEFORE INSERT ON llm_train_log FOR EACH ROW WHEN (NEW.step = 6) EXECUTE FUNCTION stop();
CALL llm_train_loop('m', 6, lr_max => 0.01, warmup => 2, min_lr => 0.001, batch_size => 2, accumulation => 2, grad_clip => 1, seed => 7,
    commit_every => 2);
SELECT max(step) FROM llm_param;
DROP TRIGGER stop ON llm_train_log;
CALL llm_train_loop('m', 6, lr_max => 0.01, warmup => 2, min_lr => 0.001, batch_size => 2, accumulation => 2, grad_clip => 1, seed => 7,
    commit_every => 3, notice_every => 0);
SELECT bool_and((one.data, one.m, one.v, one.step) = (p.data, p.m, p.v, p.step)) AS same FROM one_call AS one JOIN llm_param AS p USING (name);

-- a loop inside a transaction block cannot commit
BEGIN;
CALL llm_train_loop('m', 6);
ROLLBACK;

-- evaluation
SELECT loss::numeric(10, 6), perplexity::numeric(10, 4), tokens, bits_per_character FROM llm_perplexity('m', 'm');
SELECT loss::numeric(10, 6), tokens FROM llm_perplexity('m', 'm', max_rows => 2);

-- errors, each with a hint
SELECT llm_train('nobody', 1);
SELECT llm_train('m', 1, n_layer => 3);
SELECT llm_train('m', 1, dataset => 'none');
SELECT llm_train('m', 0);
SELECT llm_train('m', 1, grad_workers => 0);
SELECT llm_train('m', 1, lr_max => 'NaN');
SELECT llm_train_step('m', 99);
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('bad', '{1,26}', '{26,1}'),
    ('long', array_fill(1, ARRAY[17]), array_fill(1, ARRAY[17]));
SELECT llm_train('m', 1, dataset => 'bad', warmup => 0);
SELECT llm_train('m', 1, dataset => 'long', warmup => 0);
SELECT llm_train('m', 200, lr_max => 1e6, warmup => 0, notice_every => 0);
SELECT max(step) FROM llm_param;

-- shared parameters
SELECT llm_create_model('two', 1, 2, 8, 16, 26);
SELECT llm_init_model('two', 2);
SELECT llm_share_param('m', 'wpe.weight', 'two', 'wte.weight');
SELECT llm_share_param('m', 'wte.weight', 'two', 'wte.weight');
SELECT llm_share_param('two', 'wte.weight', 'm', 'wte.weight');
SELECT * FROM llm_param_share;
SELECT llm_train('two', 1, dataset => 'm', lr_max => 0.01, min_lr => 0.01, warmup => 0, notice_every => 0);
SELECT model, step, count(*) FROM llm_param GROUP BY 1, 2 ORDER BY 1, 2;
SELECT llm_unshare_param('two', 'wte.weight', true);
SELECT model, step, count(*) FROM llm_param GROUP BY 1, 2 ORDER BY 1, 2;
SELECT llm_unshare_param('two', 'wte.weight');
SELECT llm_zero_grad('m'), llm_reset_optimizer('two');
SELECT model, step, count(*), count(m), count(v), count(grad) FROM llm_param GROUP BY 1, 2 ORDER BY 1, 2;

DROP TABLE one_call;
DROP FUNCTION stop();
DELETE FROM llm_param_share;
DELETE FROM llm_model_config WHERE model IN ('m', 'two');
DELETE FROM llm_dataset;
