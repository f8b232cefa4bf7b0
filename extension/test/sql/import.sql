-- Import and export of checkpoints: what SQL decides about a file, and both formats written and read by path.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
\set SHOW_CONTEXT never

-- config.json as columns and options of llm_model_config.
SELECT _llm_import_config('{"model_type": "gpt2", "vocab_size": 11, "n_ctx": 7, "n_embd": 6, "n_layer": 2, "n_head": 3,
    "n_inner": null, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "tie_word_embeddings": false,
    "eos_token_id": [4, 5]}');
SELECT _llm_import_config(NULL);
SELECT _llm_import_config('[]');
SELECT _llm_import_config('{"n_head": 2.5}');
SELECT _llm_import_config('{"model_type": "mamba"}');
SELECT _llm_import_config('{"activation_function": "mish"}');

-- Names of tensors, and the ones that are ignored.
SELECT * FROM _llm_import_tensors('[{"name": "transformer.wte.weight", "dtype": "F16", "shape": [11, 6]},
    {"name": "h.0.attn.bias", "dtype": "U8", "shape": [1, 1, 7, 7]}, {"name": "h.0.attn.masked_bias", "dtype": "F32", "shape": []},
    {"name": "h.0.attn.c_attn.bias", "dtype": "F32", "shape": [18]}]');

-- A file with missing, surplus and misshapen tensors.
SELECT * FROM _llm_import_begin('wrong', '[{"name": "wte.weight", "dtype": "F32", "shape": [11, 6]},
    {"name": "wpe.weight", "dtype": "I64", "shape": [7, 6]}, {"name": "ln_f.bias", "dtype": "F32", "shape": [5]},
    {"name": "extra", "dtype": "F32", "shape": []}]', '{"n_head": 3}', false);
SELECT * FROM _llm_import_begin('wrong', '[]', NULL, false);
SELECT * FROM _llm_import_begin('', '[]', NULL, false);
SELECT count(*) FROM llm_model_config WHERE model = 'wrong';

-- A file that fits: parameters in the graph's order, whatever the file's.
BEGIN;
SELECT * FROM _llm_import_begin('right', '[{"name": "transformer.ln_f.bias", "dtype": "F32", "shape": [6]},
    {"name": "transformer.ln_f.weight", "dtype": "F32", "shape": [6]}, {"name": "transformer.wte.weight", "dtype": "F32", "shape": [11, 6]},
    {"name": "transformer.wpe.weight", "dtype": "F32", "shape": [7, 6]}]', '{"n_head": 3}', false);
ROLLBACK;

-- Without n_head: an error, except for the sizes of GPT-2 that OpenAI published.
SELECT * FROM _llm_import_begin('heads', '[{"name": "wte.weight", "dtype": "F32", "shape": [11, 6]},
    {"name": "wpe.weight", "dtype": "F32", "shape": [7, 6]}]', NULL, false);
BEGIN;
SELECT _llm_import_register('heads', '[{"name": "wte.weight", "dtype": "F32", "shape": [50257, 1024]},
    {"name": "wpe.weight", "dtype": "F32", "shape": [1024, 1024]},
    {"name": "h.23.ln_1.weight", "dtype": "F32", "shape": [1024]}]', NULL, false);
SELECT n_layer, n_head, d_model, n_positions, vocab FROM llm_model_config WHERE model = 'heads';
ROLLBACK;

-- A file of another model does not alter a registered one.
SELECT * FROM _llm_import_begin('gpt2-small', '[]', '{"n_layer": 24, "n_head": 12, "activation_function": "relu"}', false);

-- Exported and imported again by path: the same bits. The data folder is the only one that every server can write to.
\set VERBOSITY terse
SELECT current_setting('data_directory') || '/pg_llm_regress.npz' AS npz,
    current_setting('data_directory') || '/pg_llm_regress.safetensors' AS safetensors \gset
SELECT llm_create_model('out', 2, 3, 6, 7, 11, 10, NULL, '{"activation": "relu", "tied_head": false}');
SELECT llm_init_model('out', 1);
SELECT * FROM pg_llm_export_npz(:'npz', 'out');
SELECT * FROM pg_llm_export_safetensors(:'safetensors', 'out');
SELECT * FROM pg_llm_import_npz(:'npz', 'in npz');
SELECT * FROM pg_llm_import_safetensors(:'safetensors', 'in safetensors');
SELECT a.model, count(*), bool_and(a.data = b.data) AS same FROM llm_param a JOIN llm_param b USING (name)
    WHERE a.model LIKE 'in %' AND b.model = 'out' GROUP BY a.model ORDER BY a.model;
SELECT n_layer, n_head, d_model, d_ff, n_positions, vocab, options FROM llm_model_config WHERE model LIKE 'in %';
COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; rm -f pg_llm_regress.npz pg_llm_regress.safetensors';

SELECT pg_llm_import_npz(NULL, 'm');
SELECT pg_llm_import_npz('m.npz', 'm');
SELECT pg_llm_import_npz('/no/such/file.npz', 'm');
SELECT pg_llm_import_safetensors('/dev/null', 'm');
SELECT pg_llm_export_npz('/dev/null', 'out');
SELECT pg_llm_export_npz('/tmp/x.npz', 'nobody');
SELECT pg_llm_export_npz('/tmp/x.npz', 'gpt2-xl');

CREATE ROLE regress_llm_reader;
SET ROLE regress_llm_reader;
\set VERBOSITY default
SELECT pg_llm_import_npz('/tmp/x.npz', 'm');
SELECT pg_llm_export_npz('/tmp/x.npz', 'out');
RESET ROLE;
DROP ROLE regress_llm_reader;
DELETE FROM llm_param WHERE model IN ('out', 'in npz', 'in safetensors');
DELETE FROM llm_graph WHERE model IN ('out', 'in npz', 'in safetensors');
DELETE FROM llm_model_config WHERE model IN ('out', 'in npz', 'in safetensors');
