-- The gradients of the kernels and the optimizer over raw bytea buffers: training's arithmetic, one call at a time.

CREATE FUNCTION pg_llm_matmul_backward(a bytea, b bytea, dc bytea, m integer, k integer, n integer, OUT da bytea, OUT db bytea)
    AS 'MODULE_PATHNAME', 'bytea_matmul_backward' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION pg_llm_matmul_backward(bytea, bytea, bytea, integer, integer, integer) IS 'Gradients of a (m,k) @ b (k,n) from dc (m,n): da = dc @ b^T, db = a^T @ dc';
CREATE FUNCTION pg_llm_gelu_backward(x bytea, dy bytea) RETURNS bytea
    AS 'MODULE_PATHNAME', 'bytea_gelu_backward' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION pg_llm_gelu_backward(bytea, bytea) IS 'dy times the slope of GELU (by tanh) at x';
CREATE FUNCTION pg_llm_softmax_backward(y bytea, dy bytea) RETURNS bytea
    AS 'MODULE_PATHNAME', 'bytea_softmax_backward' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION pg_llm_softmax_backward(bytea, bytea) IS 'y (dy - sum(y dy)) for y = softmax(x), the whole buffer as one row';
CREATE FUNCTION pg_llm_layernorm_backward(x bytea, dy bytea, gamma bytea, eps real, OUT dx bytea, OUT dgamma bytea, OUT dbeta bytea)
    AS 'MODULE_PATHNAME', 'bytea_layernorm_backward' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION pg_llm_layernorm_backward(bytea, bytea, bytea, real) IS 'Gradients of layernorm over rows as long as gamma, from dy of x''s shape';
CREATE FUNCTION pg_llm_cross_entropy_backward(logits bytea, target integer) RETURNS bytea
    AS 'MODULE_PATHNAME', 'bytea_cross_entropy_backward' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION pg_llm_cross_entropy_backward(bytea, integer) IS 'softmax(logits) minus one at the target';
CREATE FUNCTION pg_llm_attention_backward(x bytea, w_qkv bytea, b_qkv bytea, w_o bytea, b_o bytea, grad_output bytea,
    n_head integer, t integer, d integer, OUT dx bytea, OUT dw_qkv bytea, OUT db_qkv bytea, OUT dw_o bytea, OUT db_o bytea)
    AS 'MODULE_PATHNAME', 'bytea_attention_backward' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION pg_llm_attention_backward(bytea, bytea, bytea, bytea, bytea, bytea, integer, integer, integer) IS 'Gradients of pg_llm_attention from grad_output (t,d), in the shapes of x and the weights';
CREATE FUNCTION pg_llm_adamw_step(weight bytea, grad bytea, m bytea, v bytea, lr real, beta1 real, beta2 real, eps real,
    weight_decay real, step integer, OUT weight bytea, OUT m bytea, OUT v bytea)
    AS 'MODULE_PATHNAME', 'bytea_adamw_step' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION pg_llm_adamw_step(bytea, bytea, bytea, bytea, real, real, real, real, real, integer) IS 'Weight and moments after one AdamW step (Loshchilov and Hutter, 2019); step counts from 1';
CREATE FUNCTION pg_llm_grad_clip(grad bytea, clip real) RETURNS bytea
    AS 'MODULE_PATHNAME', 'bytea_grad_clip' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION pg_llm_grad_clip(bytea, real) IS 'The gradient scaled down to the length clip where it is longer';
CREATE FUNCTION pg_llm_lr_schedule(step integer, warmup integer, total integer, lr_max real, lr_min real DEFAULT 0) RETURNS real
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_lr_schedule(integer, integer, integer, real, real) IS 'Learning rate of a step counted from 1: a line up to lr_max at warmup, then a cosine down to lr_min at total';
