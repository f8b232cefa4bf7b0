-- The gradients of the kernels and the optimizer, over tensors and over raw bytea buffers: the arithmetic of
-- training, one call at a time. None of it is recorded: these are first derivatives, and nothing
-- differentiates them again.

-- ---- over tensors ----

CREATE FUNCTION pg_llm_matmul_backward(a tensor, b tensor, dc tensor, OUT da tensor, OUT db tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_matmul_backward(tensor, tensor, tensor) IS
    'Gradients of a (...,M,K) @ b (...,K,N) from dc (...,M,N): da = dc @ b^T, db = a^T @ dc, summed where an '
    'operand was broadcast';
CREATE FUNCTION pg_llm_add_backward(a tensor, b tensor, dc tensor, OUT da tensor, OUT db tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_add_backward(tensor, tensor, tensor) IS
    'Gradients of a + b from dc: dc itself, summed over the axes along which a or b was broadcast';
CREATE FUNCTION pg_llm_gelu_backward(x tensor, dy tensor, exact boolean DEFAULT false) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_gelu_backward(tensor, tensor, boolean) IS
    'dy times the derivative of GELU at x, by tanh or exact, by erf: the shape of x';
CREATE FUNCTION pg_llm_sigmoid_backward(y tensor, dy tensor) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_sigmoid_backward(tensor, tensor) IS 'dy y (1 - y) for y = sigmoid(x): the shape of y';
CREATE FUNCTION pg_llm_silu_backward(x tensor, dy tensor) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_silu_backward(tensor, tensor) IS 'dy times the derivative of SiLU at x: the shape of x';
CREATE FUNCTION pg_llm_softmax_backward(y tensor, dy tensor, axis integer DEFAULT -1) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_softmax_backward(tensor, tensor, integer) IS
    'y (dy - sum(y dy)) for y = softmax(x) along an axis, by default the last: the shape of y';
CREATE FUNCTION pg_llm_log_softmax_backward(y tensor, dy tensor, axis integer DEFAULT -1) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_log_softmax_backward(tensor, tensor, integer) IS
    'dy - exp(y) sum(dy) for y = log_softmax(x) along an axis, by default the last: the shape of y';
CREATE FUNCTION pg_llm_rmsnorm_backward(x tensor, dy tensor, weight tensor, eps real DEFAULT 1e-5,
    OUT dx tensor, OUT dweight tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_rmsnorm_backward(tensor, tensor, tensor, real) IS
    'Gradients of rmsnorm from dy (...,C): dx of the shape of x, dweight (C)';
CREATE FUNCTION pg_llm_layernorm_backward(x tensor, dy tensor, gamma tensor, eps real DEFAULT 1e-5, OUT dx tensor,
    OUT dgamma tensor, OUT dbeta tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_layernorm_backward(tensor, tensor, tensor, real) IS
    'Gradients of layernorm from dy (...,C): dx of the shape of x, dgamma and dbeta (C)';
CREATE FUNCTION pg_llm_conv2d_backward(x tensor, dy tensor, weight tensor, stride integer DEFAULT 1,
    padding integer DEFAULT 0, groups integer DEFAULT 1, OUT dx tensor, OUT dweight tensor, OUT dbias tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_conv2d_backward(tensor, tensor, tensor, integer, integer, integer) IS
    'Gradients of conv2d from dy (B,OC,OH,OW): dx and dweight of the shapes of x and weight, dbias (OC)';
CREATE FUNCTION pg_llm_groupnorm_backward(x tensor, dy tensor, gamma tensor, groups integer, eps real DEFAULT 1e-5,
    OUT dx tensor, OUT dgamma tensor, OUT dbeta tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_groupnorm_backward(tensor, tensor, tensor, integer, real) IS
    'Gradients of groupnorm from dy (B,C,...): dx of the shape of x, dgamma and dbeta (C)';
CREATE FUNCTION pg_llm_cross_entropy_backward(logits tensor, targets integer[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_cross_entropy_backward(tensor, integer[]) IS
    '(softmax(logits) - one at the target) / rows with a target: logits (...,V), one target a row, rows of target '
    '-100 get 0';
CREATE FUNCTION pg_llm_cross_entropy_backward(logits tensor, target integer) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_llm_cross_entropy_backward_row';
COMMENT ON FUNCTION pg_llm_cross_entropy_backward(tensor, integer) IS
    'softmax(logits) minus one at the target, for one row of logits (V)';
CREATE FUNCTION pg_llm_attention_backward(x tensor, w_qkv tensor, b_qkv tensor, w_o tensor, b_o tensor,
    grad_output tensor, n_head integer, causal boolean DEFAULT true, OUT dx tensor, OUT dw_qkv tensor,
    OUT db_qkv tensor, OUT dw_o tensor, OUT db_o tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_attention_backward(tensor, tensor, tensor, tensor, tensor, tensor, integer, boolean) IS
    'Gradients of pg_llm_attention from grad_output, (T,C) or (B,T,C) as x, in the shapes of x and the weights';
CREATE FUNCTION pg_llm_mlp_backward(x tensor, w_fc tensor, b_fc tensor, w_proj tensor, b_proj tensor, dy tensor,
    OUT dx tensor, OUT dw_fc tensor, OUT db_fc tensor, OUT dw_proj tensor, OUT db_proj tensor)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_mlp_backward(tensor, tensor, tensor, tensor, tensor, tensor) IS
    'Gradients of gelu(x @ w_fc + b_fc) @ w_proj + b_proj from dy, (T,C) or (B,T,C) as x, in the shapes of x and the '
    'weights';
CREATE FUNCTION pg_llm_embedding_backward(ids integer[], dy tensor, vocab integer) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_embedding_backward(integer[], tensor, integer) IS
    'Gradient (V,C) of the table from dy (...,C): row id is the sum of dy over the positions that hold id';
CREATE FUNCTION pg_llm_dropout_backward(dy tensor, p real, training boolean, seed bigint) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_dropout_backward(tensor, real, boolean, bigint) IS
    'dy / (1 - p) where the forward pass with this seed kept the element, else 0; the shape of dy';
CREATE FUNCTION pg_llm_transpose_backward(dy tensor) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_transpose_backward(tensor) IS 'Swaps the last two axes back: (...,N,M) becomes (...,M,N)';
CREATE FUNCTION pg_llm_adamw_step(weight tensor, grad tensor, m tensor, v tensor, lr double precision,
    beta1 double precision, beta2 double precision, eps double precision, weight_decay double precision, step integer,
    OUT weight tensor, OUT m tensor, OUT v tensor)
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_adamw_step(tensor, tensor, tensor, tensor, double precision, double precision,
    double precision, double precision, double precision, integer) IS
    'Weight and moments after one AdamW step (Loshchilov and Hutter, 2019), four tensors of one shape; step counts '
    'from 1. NULL is an error, because an UPDATE with it would lose the weights';
CREATE FUNCTION pg_llm_grad_clip(grad tensor, clip double precision) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_grad_clip(tensor, double precision) IS
    'The gradient, scaled down to the norm clip if its norm is larger; the shape of grad';

-- ---- over bytea ----

CREATE FUNCTION pg_llm_matmul_backward(a bytea, b bytea, dc bytea, m integer, k integer, n integer, OUT da bytea,
    OUT db bytea)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'bytea_matmul_backward';
COMMENT ON FUNCTION pg_llm_matmul_backward(bytea, bytea, bytea, integer, integer, integer) IS
    'Gradients of a (m,k) @ b (k,n) from dc (m,n): da = dc @ b^T, db = a^T @ dc';
CREATE FUNCTION pg_llm_gelu_backward(x bytea, dy bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_gelu_backward';
COMMENT ON FUNCTION pg_llm_gelu_backward(bytea, bytea) IS 'dy times the derivative of GELU (by tanh) at x';
CREATE FUNCTION pg_llm_softmax_backward(y bytea, dy bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_softmax_backward';
COMMENT ON FUNCTION pg_llm_softmax_backward(bytea, bytea) IS
    'y (dy - sum(y dy)) for y = softmax(x), the whole buffer as one row';
CREATE FUNCTION pg_llm_layernorm_backward(x bytea, dy bytea, gamma bytea, eps real, OUT dx bytea, OUT dgamma bytea,
    OUT dbeta bytea)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_layernorm_backward';
COMMENT ON FUNCTION pg_llm_layernorm_backward(bytea, bytea, bytea, real) IS
    'Gradients of layernorm over rows as long as gamma, from dy of x''s shape';
CREATE FUNCTION pg_llm_cross_entropy_backward(logits bytea, target integer) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_cross_entropy_backward';
COMMENT ON FUNCTION pg_llm_cross_entropy_backward(bytea, integer) IS 'softmax(logits) minus one at the target';
CREATE FUNCTION pg_llm_attention_backward(x bytea, w_qkv bytea, b_qkv bytea, w_o bytea, b_o bytea, grad_output bytea,
    n_head integer, t integer, d integer, OUT dx bytea, OUT dw_qkv bytea, OUT db_qkv bytea, OUT dw_o bytea,
    OUT db_o bytea)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'bytea_attention_backward';
COMMENT ON FUNCTION pg_llm_attention_backward(bytea, bytea, bytea, bytea, bytea, bytea, integer, integer, integer) IS
    'Gradients of pg_llm_attention from grad_output (t,d), in the shapes of x and the weights';
CREATE FUNCTION pg_llm_mlp_backward(x bytea, w_fc bytea, b_fc bytea, w_proj bytea, b_proj bytea, dy bytea, t integer,
    d integer, OUT dx bytea, OUT dw_fc bytea, OUT db_fc bytea, OUT dw_proj bytea, OUT db_proj bytea)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'bytea_mlp_backward';
COMMENT ON FUNCTION pg_llm_mlp_backward(bytea, bytea, bytea, bytea, bytea, bytea, integer, integer) IS
    'Gradients of gelu(x @ w_fc + b_fc) @ w_proj + b_proj from dy (t,d): x (t,d), w_fc (d,4*d), w_proj (4*d,d); in '
    'the shapes of x and the weights';
CREATE FUNCTION pg_llm_dropout_backward(input bytea, output bytea, grad bytea, p real, training boolean) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_dropout_backward';
COMMENT ON FUNCTION pg_llm_dropout_backward(bytea, bytea, bytea, real, boolean) IS
    'grad / (1 - p) where dropout kept an element of input, 0 where output shows that it dropped it; grad itself '
    'outside training';
CREATE FUNCTION pg_llm_adamw_step(weight bytea, grad bytea, m bytea, v bytea, lr real, beta1 real, beta2 real,
    eps real, weight_decay real, step integer, OUT weight bytea, OUT m bytea, OUT v bytea)
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_adamw_step';
COMMENT ON FUNCTION pg_llm_adamw_step(bytea, bytea, bytea, bytea, real, real, real, real, real, integer) IS
    'Weight and moments after one AdamW step (Loshchilov and Hutter, 2019); step counts from 1';
CREATE FUNCTION pg_llm_grad_clip(grad bytea, clip real) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_grad_clip';
COMMENT ON FUNCTION pg_llm_grad_clip(bytea, real) IS
    'The gradient, scaled down to the norm clip if its norm is larger';
CREATE FUNCTION pg_llm_lr_schedule(step integer, warmup integer, total integer, lr_max real, lr_min real DEFAULT 0)
    RETURNS real
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_lr_schedule(integer, integer, integer, real, real) IS
    'Learning rate of a step counted from 1: linear warmup to lr_max at step warmup, then cosine decay to lr_min at '
    'step total';
