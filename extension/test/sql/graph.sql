-- Architectures as rows: GPT-2's graph, inferred shapes, edits, and graphs that are refused.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
\set SHOW_CONTEXT never

SELECT llm_create_model('g', 1, 2, 4, 8, 6);
SELECT name, op, inputs, attrs, shape FROM llm_graph WHERE model = 'g' ORDER BY id;
SELECT * FROM llm_param_shapes('g');
SELECT op, min_inputs, max_inputs FROM llm_op ORDER BY op;

-- An activation of another kind, a residual around the whole layer, a window, a head switched off.
SELECT llm_init_model('g', 1);
UPDATE llm_graph SET op = 'relu' WHERE model = 'g' AND op = 'gelu' RETURNING name, op;
INSERT INTO llm_graph (model, name, op, inputs) VALUES ('g', 'around', 'add', '{h.0,drop}');
UPDATE llm_graph SET inputs[1] = 'around' WHERE model = 'g' AND name = 'ln_f' RETURNING name, inputs;
UPDATE llm_graph SET attrs = attrs || '{"window": 2, "head_mask": [1, 0]}' WHERE model = 'g' AND op = 'attention'
    RETURNING attrs;
SELECT name, op, shape FROM llm_graph WHERE model = 'g' AND name IN ('around', 'h.0.mlp.act') ORDER BY name;
SELECT shape(llm_logits(ARRAY[1, 2, 3], 'g'));

-- Shapes that do not fit are refused when they are written; the error names the node and both shapes.
UPDATE llm_graph SET op = 'swish' WHERE model = 'g' AND op = 'relu';
UPDATE llm_graph SET inputs[2] = 'nowhere' WHERE model = 'g' AND name = 'around';
UPDATE llm_graph SET inputs = '{h.0}' WHERE model = 'g' AND name = 'around';
UPDATE llm_graph SET inputs[2] = 'ln_f' WHERE model = 'g' AND name = 'around';
UPDATE llm_graph SET inputs[2] = 'h.0.mlp.act' WHERE model = 'g' AND name = 'around';
UPDATE llm_graph SET inputs[2] = 'wte.weight' WHERE model = 'g' AND name = 'h.0.mlp.c_fc.matmul';
UPDATE llm_graph SET inputs[1] = 'positions' WHERE model = 'g' AND name = 'ln_f';
UPDATE llm_graph SET attrs = '{"n_head": 3}' WHERE model = 'g' AND op = 'attention';
UPDATE llm_graph SET attrs = '{"n_head": 2, "windwo": 2}' WHERE model = 'g' AND op = 'attention';
UPDATE llm_graph SET attrs = '{"shape": ["V", "C+1"]}' WHERE model = 'g' AND name = 'wte.weight';
UPDATE llm_model_config SET d_model = 5, n_head = 1 WHERE model = 'g';

-- A change of several statements is checked when the transaction ends, or on request.
BEGIN;
SET CONSTRAINTS llm_graph_fits DEFERRED;
DELETE FROM llm_graph WHERE model = 'g' AND name = 'around';
SET CONSTRAINTS llm_graph_fits IMMEDIATE;
ROLLBACK;
BEGIN;
SET CONSTRAINTS llm_graph_fits DEFERRED;
DELETE FROM llm_graph WHERE model = 'g' AND name = 'around';
UPDATE llm_graph SET inputs[1] = 'h.0' WHERE model = 'g' AND name = 'ln_f';
COMMIT;
SELECT shape(llm_logits(ARRAY[1, 2, 3], 'g'));

-- A graph that is not a GPT: the mean colour of an image classifies it.
INSERT INTO llm_model_config VALUES ('picture', 0, 1, 3, 12, 1, 2);
BEGIN;
SET CONSTRAINTS llm_graph_fits DEFERRED;
INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES
    ('picture', 'pixels', 'input', '{}', '{"shape": ["B", "N", "C"]}'),
    ('picture', 'pool', 'input', '{}', '{"shape": ["B", 1, "N"]}'),
    ('picture', 'class', 'param', '{}', '{"shape": ["C", "V"]}'),
    ('picture', 'colour', 'matmul', '{pool,pixels}', '{}'),
    ('picture', 'logits', 'matmul', '{colour,class}', '{}'),
    ('picture', 'which', 'softmax', '{logits}', '{}');
COMMIT;
SELECT name, shape FROM llm_graph WHERE model = 'picture' ORDER BY id;
INSERT INTO llm_param (model, name, data) VALUES ('picture', 'class', '[[1,-1],[0,0],[-1,1]]');
SELECT llm_eval('picture', 'logits', '{"pixels": [[[1,0,0],[1,0,1]]], "pool": [[[0.5,0.5]]]}');
SELECT llm_eval('picture', 'which', '{"pixels": [[[1,0,0],[1,0,1]]], "pool": [[[0.5,0.5]]]}');
SELECT llm_eval('picture', 'which', '{"pixels": [[[1,0,0],[1,0,1]]], "pool": [[[0.5,0.5,0.5]]]}');

-- A model's rows are deleted with its config row.
UPDATE llm_model_config SET model = 'h' WHERE model = 'g';
SELECT model, count(*) FROM llm_graph WHERE model IN ('g', 'h', 'picture') GROUP BY model ORDER BY model;
DELETE FROM llm_model_config WHERE model IN ('h', 'picture');
SELECT count(*) FROM llm_graph WHERE model IN ('h', 'picture');
