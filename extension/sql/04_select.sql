-- Choosing, limiting and counting up elements and rows.

CREATE FUNCTION greater(a tensor, b tensor) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SUPPORT tensor_broadcast_support AS 'MODULE_PATHNAME', 'tensor_greater';
COMMENT ON FUNCTION greater(tensor, tensor) IS
    '1 where an element of a is greater than that of b, else 0; shapes broadcast; a constant for autograd';
CREATE FUNCTION tensor_where(condition tensor, x tensor, y tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_where(tensor, tensor, tensor) IS
    'The element of x where the condition''s is not 0, else that of y; shapes broadcast';
CREATE FUNCTION stop_gradient(t tensor) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SUPPORT tensor_same_shape_support
    AS 'MODULE_PATHNAME', 'tensor_stop_gradient';
COMMENT ON FUNCTION stop_gradient(tensor) IS 'The same elements as a constant: no gradient flows through them';
CREATE FUNCTION clamp(t tensor, min double precision DEFAULT NULL, max double precision DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_clamp';
COMMENT ON FUNCTION clamp(tensor, double precision, double precision) IS
    'Each element, but not less than min and not more than max; NULL leaves a bound open';
CREATE FUNCTION cumsum(t tensor, axis integer DEFAULT -1) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_cumsum';
COMMENT ON FUNCTION cumsum(tensor, integer) IS
    'The sum of each element and those before it along an axis, by default the last: the same shape';

-- ---- rows by their ids, which are whole numbers from 0 on; one that does not exist is an error ----

CREATE FUNCTION topk(t tensor, k integer, output text DEFAULT 'values') RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_topk';
COMMENT ON FUNCTION topk(tensor, integer, text) IS
    'The k largest elements along the last axis, in descending order, ties by index: their values or indices (...,k), '
    'or a mask of the shape of t';
CREATE FUNCTION one_hot(ids tensor, size integer) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_one_hot';
COMMENT ON FUNCTION one_hot(tensor, integer) IS 'Ids (...) as rows of zeros with a one at the id: (...,size)';
CREATE FUNCTION gather_rows(x tensor, ids tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_gather_rows';
COMMENT ON FUNCTION gather_rows(tensor, tensor) IS 'The rows of x (N,...) with the ids (...): rows in their shape';
CREATE FUNCTION scatter_rows(x tensor, ids tensor, size integer) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_scatter_rows';
COMMENT ON FUNCTION scatter_rows(tensor, tensor, integer) IS
    'Zeros (size,...) to which each row of x is added at its id; x has the dimensions of ids, then those of a row';
CREATE FUNCTION expert_matmul(x tensor, ids tensor, w tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 1000 AS 'MODULE_PATHNAME', 'tensor_expert_matmul';
COMMENT ON FUNCTION expert_matmul(tensor, tensor, tensor) IS
    'Each row of x times the matrices of its experts alone: x (...,K) or (...,k,K), ids (...,k), w (E,K,N); the result '
    'is (...,k,N)';

-- ---- losses ----

CREATE FUNCTION mse(x tensor, y tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_mse';
COMMENT ON FUNCTION mse(tensor, tensor) IS
    'The mean of (x - y)^2 over all elements of two tensors of one shape; a scalar';
CREATE FUNCTION soft_cross_entropy(logits tensor, probabilities tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_soft_cross_entropy';
COMMENT ON FUNCTION soft_cross_entropy(tensor, tensor) IS
    'The mean over rows of -sum(p log softmax(logits)): logits and distributions p, both (...,V); a scalar';

-- ---- random tensors ----

CREATE FUNCTION uniform(shape integer[], seed bigint, low double precision DEFAULT 0, high double precision DEFAULT 1)
    RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_uniform';
COMMENT ON FUNCTION uniform(integer[], bigint, double precision, double precision) IS
    'Random numbers from low up to, not including, high; the same for the same seed';
CREATE FUNCTION randint(shape integer[], seed bigint, low integer, high integer) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_randint';
COMMENT ON FUNCTION randint(integer[], bigint, integer, integer) IS
    'Random whole numbers from low up to, not including, high; the same for the same seed';
