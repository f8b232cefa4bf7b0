-- The tape: operations, values and gradients as rows; switches, leaves, errors.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
SELECT llm_prune_autograd_state() IS NOT NULL AS pruned;
ALTER SEQUENCE llm_run_seq RESTART;
RESET client_min_messages;
\set SHOW_CONTEXT never

SELECT * FROM llm_autograd_mode;
UPDATE llm_autograd_mode SET flag = true RETURNING flag;

-- y = x * x + 3 x, at x = 4: dy/dx = 2 x + 3
SELECT * FROM llm_backward((SELECT x * x + 3 * x FROM (SELECT llm_var('4', 'x') AS x OFFSET 0) AS s));
SELECT id, run, op, inputs, outputs, extra -> 'flops' AS flops FROM llm_tape ORDER BY id;
SELECT id, name, shape, data, grad, requires_grad FROM llm_tensor_rt ORDER BY id;
SELECT run, model, kind, tokens, who = session_user AS mine, open FROM llm_run;
SELECT llm_open_run();

-- A layer: broadcasting, a product, a mean; attributes are kept.
SELECT * FROM llm_backward((SELECT mean(relu((x @ llm_var('[[1,-1],[2,0.5]]', 'w')) + llm_var('[0.5,-3]', 'b')), 0)
    @ '[1,10]'::tensor FROM (SELECT '[[1,2],[3,4],[-5,6]]'::tensor AS x) AS s)) ORDER BY name;
SELECT op, name, inputs, shape, flops, bytes FROM llm_tape_named WHERE run = 2 ORDER BY id;
SELECT op, extra -> 'attrs' AS attrs FROM llm_tape WHERE run = 2 AND extra ? 'attrs';
SELECT name, numel, norm, weight_norm, largest FROM llm_gradient WHERE run = 2 ORDER BY name COLLATE "C";
SELECT op, calls, flops FROM llm_op_cost WHERE run = 2 ORDER BY op COLLATE "C";
SELECT name, op, shape, mean, dead FROM llm_activation WHERE run = 2 ORDER BY id;

-- Rows summed: one operation that reads them all.
SELECT * FROM llm_backward((SELECT tensor_sum(sum(t * llm_var('[1,2]', 'v') ORDER BY i)) FROM
    (VALUES (1, '[3,4]'::tensor), (2, NULL), (3, '[5,6]')) AS rows (i, t)));
SELECT op, inputs FROM llm_tape_named WHERE run = 3 ORDER BY id;

-- The gradients of a model, step by step.
SELECT llm_create_model('taped', 1, 2, 4, 8, 6);
SELECT llm_init_model('taped', 1);
SELECT llm_loss('taped', ARRAY[1,2,3], ARRAY[2,3,4]);
UPDATE llm_autograd_mode SET flag = false;
SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'taped');
SELECT llm_accumulate_grads('taped');
SELECT llm_accumulate_grads('taped');
SELECT name, numel, norm > 0 AS some FROM llm_param_gradient WHERE model = 'taped' ORDER BY name;
SELECT op, name, inputs, shape FROM llm_tape_named WHERE run = 4 ORDER BY id;
SELECT r.name, r.shape FROM llm_tape AS t JOIN llm_tensor_rt AS r ON r.id = ANY (t.outputs)
    WHERE t.run = 4 AND t.op = 'attention' ORDER BY r.id;
SELECT layer, head, query, key, weight FROM llm_attention_map WHERE run = 4 AND query < 2 ORDER BY 1, 2, 3, 4;
SELECT run, kind, model, tokens, open FROM llm_run ORDER BY run;
SELECT llm_trace('taped', ARRAY[[1,2],[3,4]]);

-- Errors.
SELECT * FROM llm_backward('3');
UPDATE llm_autograd_mode SET flag = true;
SELECT * FROM llm_backward('3'::tensor + 1);
SELECT * FROM llm_backward(llm_var('[1,2]', 'x') * 2);
SELECT llm_var('[1,2]', 'x') + llm_var('[1,3]', 'x');
SELECT llm_backprop(NULL, 'taped');
SELECT llm_backprop(5000001, 'taped');
BEGIN TRANSACTION READ ONLY;
SELECT '[1]'::tensor + 1;
ROLLBACK;
UPDATE llm_autograd_mode SET flag = NULL;
DELETE FROM llm_autograd_mode;
SELECT * FROM llm_autograd_mode;

DELETE FROM llm_model_config WHERE model = 'taped';
SELECT llm_prune_autograd_state();
SELECT count(*) FROM llm_tensor_rt;
