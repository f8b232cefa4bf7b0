-- The kernels as SQL functions: over tensors, and over raw bytea buffers of little-endian float32 in
-- row-major order, whose dimensions the caller passes. Letters: B batch, T time, C channels, V vocabulary.

-- ---- over tensors ----

CREATE FUNCTION pg_llm_matmul(a tensor, b tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 1000 SUPPORT tensor_matmul_support
    AS 'MODULE_PATHNAME', 'tensor_matmul';
COMMENT ON FUNCTION pg_llm_matmul(tensor, tensor) IS
    'Matrix product (...,M,K) @ (...,K,N) = (...,M,N), leading axes broadcast; the operator @';
CREATE FUNCTION pg_llm_add(a tensor, b tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support AS 'MODULE_PATHNAME', 'tensor_add';
COMMENT ON FUNCTION pg_llm_add(tensor, tensor) IS 'a + b, element by element, shapes broadcast; the operator +';
CREATE FUNCTION pg_llm_gelu(x tensor, exact boolean DEFAULT false) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_gelu(tensor, boolean) IS
    'GELU of each element: by tanh as in GPT-2, or exact, by erf (Hendrycks and Gimpel, 2016)';
CREATE FUNCTION pg_llm_sigmoid(x tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_sigmoid(tensor) IS '1 / (1 + exp(-x)) of each element';
CREATE FUNCTION pg_llm_silu(x tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_silu(tensor) IS
    'x sigmoid(x) of each element, also called swish (Elfwing et al., 2017)';
CREATE FUNCTION pg_llm_softmax(x tensor, axis integer DEFAULT -1) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_softmax(tensor, integer) IS
    'exp(x - max) divided by its sum along an axis, by default the last: the same shape, whose elements along the '
    'axis sum to 1';
CREATE FUNCTION pg_llm_log_softmax(x tensor, axis integer DEFAULT -1) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_log_softmax(tensor, integer) IS
    'The logarithm of softmax, x - log(sum(exp(x))), along an axis, by default the last: the same shape';
CREATE FUNCTION tensor_rmsnorm_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_rmsnorm_support(internal) IS
    'Planner support, declared shapes checked before rows are read: normalisation by the root mean square';
CREATE FUNCTION pg_llm_rmsnorm(x tensor, weight tensor, eps real DEFAULT 1e-5) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_rmsnorm_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_rmsnorm(tensor, tensor, real) IS
    'x / sqrt(mean(x^2) + eps) * weight over the last axis: x (...,C), weight (C) (Zhang and Sennrich, 2019)';
CREATE FUNCTION pg_llm_layernorm(x tensor, gamma tensor, beta tensor, eps real DEFAULT 1e-5) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_layernorm_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_layernorm(tensor, tensor, tensor, real) IS
    '(x - mean) / sqrt(var + eps) * gamma + beta over the last axis: x (...,C), gamma and beta (C) (Ba et al., 2016)';
CREATE FUNCTION tensor_conv2d_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_conv2d_support(internal) IS
    'Planner support, declared shapes checked before rows are read: convolution';
CREATE FUNCTION tensor_groupnorm_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_groupnorm_support(internal) IS
    'Planner support, declared shapes checked before rows are read: normalisation of groups of channels';
CREATE FUNCTION pg_llm_conv2d(x tensor, weight tensor, bias tensor DEFAULT NULL, stride integer DEFAULT 1,
    padding integer DEFAULT 0, groups integer DEFAULT 1) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000 SUPPORT tensor_conv2d_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_conv2d(tensor, tensor, tensor, integer, integer, integer) IS
    'Convolution of images: x (B,C,H,W), weight (OC,C/groups,KH,KW), bias (OC) or NULL; padding zeros on each side; '
    '(B,OC,OH,OW) with OH = (H + 2 padding - KH) / stride + 1';
CREATE FUNCTION pg_llm_groupnorm(x tensor, gamma tensor, beta tensor, groups integer, eps real DEFAULT 1e-5)
    RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_groupnorm_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_groupnorm(tensor, tensor, tensor, integer, real) IS
    '(x - mean) / sqrt(var + eps) * gamma + beta, mean and variance over each group of channels: x (B,C,...), gamma '
    'and beta (C) (Wu and He, 2018)';
CREATE FUNCTION pg_llm_upsample(x tensor, factor integer DEFAULT 2) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_upsample(tensor, integer) IS
    'Every pixel of (...,H,W) repeated factor times in both directions: (...,factor*H,factor*W)';
CREATE FUNCTION pg_llm_avgpool(x tensor, factor integer DEFAULT 2) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_avgpool(tensor, integer) IS
    'Means of windows of factor x factor pixels of (...,H,W): (...,H/factor,W/factor)';
CREATE FUNCTION pg_llm_cross_entropy(logits tensor, targets integer[]) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_cross_entropy(tensor, integer[]) IS
    'Mean over rows of -log softmax(logits)[target]: logits (...,V), one target a row, -100 leaves a row out; a '
    'scalar';
CREATE FUNCTION pg_llm_cross_entropy(logits tensor, target integer) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_llm_cross_entropy_row';
COMMENT ON FUNCTION pg_llm_cross_entropy(tensor, integer) IS
    '-log softmax(logits)[target] of one row of logits (V); a scalar';
CREATE FUNCTION pg_llm_attention(x tensor, w_qkv tensor, b_qkv tensor, w_o tensor, b_o tensor, n_head integer,
    causal boolean DEFAULT true) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 1000 SUPPORT tensor_attention_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_attention(tensor, tensor, tensor, tensor, tensor, integer, boolean) IS
    'Self-attention of n_head heads: x (T,C) or (B,T,C), w_qkv (C,3*C), b_qkv (3*C), w_o (C,C), b_o (C); the shape '
    'of x (Vaswani et al., 2017)';
CREATE FUNCTION pg_llm_embedding(ids integer[], weight tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_embedding(integer[], tensor) IS
    'Row id of weight (V,C) for each id: ids (T) give (T,C); of a large stored table only these rows are read if '
    'they are few';
CREATE FUNCTION pg_llm_dropout(x tensor, p real, training boolean DEFAULT true, seed bigint DEFAULT NULL)
    RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_dropout(tensor, real, boolean, bigint) IS
    'In training each element is 0 with probability p, else x / (1 - p); otherwise x itself; without a seed, '
    'random() supplies one (Srivastava et al., 2014)';
CREATE FUNCTION pg_llm_transpose(x tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_transpose_support
    AS 'MODULE_PATHNAME', 'tensor_transpose';
COMMENT ON FUNCTION pg_llm_transpose(tensor) IS 'Swaps the last two axes: (...,M,N) becomes (...,N,M)';
CREATE FUNCTION pg_llm_ones_like(x tensor) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_ones_like(tensor) IS 'A tensor of ones of the shape of x';
CREATE FUNCTION pg_llm_zeros_like(x tensor) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_zeros_like(tensor) IS 'A tensor of zeros of the shape of x';

-- ---- over bytea: never recorded ----

CREATE FUNCTION pg_llm_matmul(a bytea, b bytea, m integer, k integer, n integer) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'bytea_matmul';
COMMENT ON FUNCTION pg_llm_matmul(bytea, bytea, integer, integer, integer) IS
    'Matrix product a (m,k) @ b (k,n) = (m,n)';
CREATE FUNCTION pg_llm_add(a bytea, b bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_add';
COMMENT ON FUNCTION pg_llm_add(bytea, bytea) IS 'a + b, element by element, of equal lengths';
CREATE FUNCTION pg_llm_gelu(x bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_gelu';
COMMENT ON FUNCTION pg_llm_gelu(bytea) IS 'GELU of each element, by tanh as in GPT-2';
CREATE FUNCTION pg_llm_softmax(x bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_softmax';
COMMENT ON FUNCTION pg_llm_softmax(bytea) IS 'Softmax of the whole buffer as one row';
CREATE FUNCTION pg_llm_layernorm(x bytea, gamma bytea, beta bytea, eps real) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_layernorm';
COMMENT ON FUNCTION pg_llm_layernorm(bytea, bytea, bytea, real) IS
    '(x - mean) / sqrt(var + eps) * gamma + beta for each row of x, as long as gamma and beta';
CREATE FUNCTION pg_llm_cross_entropy(logits bytea, target integer) RETURNS real
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_cross_entropy';
COMMENT ON FUNCTION pg_llm_cross_entropy(bytea, integer) IS '-log softmax(logits)[target] of one row of logits';
CREATE FUNCTION pg_llm_attention(x bytea, w_qkv bytea, b_qkv bytea, w_o bytea, b_o bytea, n_head integer, t integer,
    d integer) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'bytea_attention';
COMMENT ON FUNCTION pg_llm_attention(bytea, bytea, bytea, bytea, bytea, integer, integer, integer) IS
    'Causal self-attention: x (t,d), w_qkv (d,3*d), b_qkv (3*d), w_o (d,d), b_o (d); the shape of x';
CREATE FUNCTION pg_llm_embedding(ids integer[], weight bytea, d integer) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_embedding';
COMMENT ON FUNCTION pg_llm_embedding(integer[], bytea, integer) IS 'Row id of weight (V,d) for each of n ids: (n,d)';
CREATE FUNCTION pg_llm_dropout(x bytea, p real, training boolean, seed bigint DEFAULT NULL) RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_dropout';
COMMENT ON FUNCTION pg_llm_dropout(bytea, real, boolean, bigint) IS
    'In training each element is 0 with probability p, else x / (1 - p); otherwise x itself; without a seed, '
    'random() supplies one';
CREATE FUNCTION pg_llm_transpose(x bytea, rows integer, cols integer) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_transpose';
COMMENT ON FUNCTION pg_llm_transpose(bytea, integer, integer) IS 'x (rows,cols) becomes (cols,rows)';
CREATE FUNCTION pg_llm_ones_like(x bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_ones_like';
COMMENT ON FUNCTION pg_llm_ones_like(bytea) IS 'As many ones as x has floats';
CREATE FUNCTION pg_llm_zeros_like(x bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_zeros_like';
COMMENT ON FUNCTION pg_llm_zeros_like(bytea) IS 'As many zeros as x has floats';
