-- Models: dimensions, random weights, logits, loss, any node; errors.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
\set SHOW_CONTEXT never

SELECT model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer, options FROM llm_model_config
    WHERE model LIKE 'gpt2-%' ORDER BY d_model;

-- The same seed gives the same bits on every machine.
SELECT llm_create_model('m', 1, 2, 4, 8, 6);
SELECT llm_init_model('m', 42);
SELECT name, shape(data), data FROM llm_param WHERE model = 'm' AND name IN ('wte.weight', 'ln_f.weight') ORDER BY name;
SELECT name, md5(data::bytea) FROM llm_param WHERE model = 'm' AND ndim(data) = 2 ORDER BY name;
SELECT llm_logits(ARRAY[1, 2, 3], 'm');
SELECT shape(llm_logits(ARRAY[[1, 2, 3], [4, 5, 0]], 'm'));
SELECT slice(llm_logits(ARRAY[[4, 5, 0], [1, 2, 3]], 'm'), 1, 2) = reshape(llm_logits(ARRAY[1, 2, 3], 'm'), ARRAY[1, 3, 6]);
SELECT llm_logits(ARRAY[1, 2, 3], 'm', ARRAY[0, 1, 2]) = llm_logits(ARRAY[1, 2, 3], 'm');
SELECT llm_loss('m', ARRAY[1, 2, 3], ARRAY[2, 3, 4]), llm_loss('m', ARRAY[1, 2, 3], ARRAY[2, -1, -1]);
SELECT llm_loss('m', ARRAY[1, 2, 3], ARRAY[-1, -1, -1]);
SELECT llm_eval('m', 'h.0.ln_1', '{"tokens": [1, 2]}');
SELECT llm_eval('m', 'wpe', '{"positions": [7]}') = slice(data, 7, 8) FROM llm_param WHERE model = 'm' AND name = 'wpe.weight';
SELECT llm_eval('m', 'h.0.attn.c_attn.weight', NULL) = data FROM llm_param WHERE model = 'm' AND name = 'h.0.attn.c_attn.weight';

-- A manual change takes effect at once, and a rollback undoes it.
BEGIN;
UPDATE llm_param SET data = zeros(shape(data)) WHERE model = 'm' AND name = 'wte.weight';
SELECT llm_logits(ARRAY[1], 'm'), abs(llm_loss('m', ARRAY[1], ARRAY[2]) - ln(6::float8)) < 1e-6 AS ln_6;
ROLLBACK;
SELECT llm_logits(ARRAY[1], 'm');
BEGIN;
DELETE FROM llm_param WHERE model = 'm' AND name LIKE 'h.0.ln%';
SELECT llm_logits(ARRAY[1], 'm');
ROLLBACK;
UPDATE llm_param SET data = '[1,2,3]' WHERE model = 'm' AND name = 'ln_f.bias';
SELECT llm_logits(ARRAY[1], 'm');
UPDATE llm_param SET data = zeros(ARRAY[4]) WHERE model = 'm' AND name = 'ln_f.bias';

-- Errors.
SELECT llm_create_model('m', 2, 2, 4, 8, 6);
SELECT llm_create_model('m', 1, 2, 4, 8, 6, options => '{"activation": "relu"}');
SELECT llm_create_model('n', 1, 3, 4, 8, 6);
SELECT llm_create_model('n', 1, 2, 4, 8, 0);
SELECT llm_create_model('n', 1, 2, 4, 8, NULL);
SELECT llm_create_model('n', 1, 2, 4, 8, 6, options => '{"activation": "swish"}');
SELECT llm_create_model('n', 1000, 2, 4, 8, 6);
SELECT llm_init_model('nobody', 1);
SELECT llm_logits(ARRAY[1], 'nobody');
SELECT llm_logits(ARRAY[1, 6], 'm');
SELECT llm_logits('{}', 'm');
SELECT llm_logits(ARRAY[1, NULL], 'm');
SELECT llm_logits(array_fill(1, ARRAY[9]), 'm');
SELECT llm_logits(ARRAY[1, 2], 'm', ARRAY[1]);
SELECT llm_loss('m', ARRAY[1, 2], ARRAY[1]);
SELECT llm_loss('m', ARRAY[1, 2], ARRAY[1, 6]);
SELECT llm_eval('m', 'h.9', '{"tokens": [1]}');
SELECT llm_eval('m', 'h.0', '{"token": [1]}');
SELECT llm_eval('m', 'h.0', '{"tokens": [0.5]}');
SELECT llm_eval('m', 'loss', '{"tokens": [1]}');
SELECT llm_eval('m', 'h.0', '[1]');
DELETE FROM llm_model_config WHERE model = 'm';
