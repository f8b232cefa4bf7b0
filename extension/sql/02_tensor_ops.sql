-- Operators, functions and aggregates of tensors.
--
-- Functions through which a gradient can flow are VOLATILE and PARALLEL UNSAFE: with autograd on, each call
-- is recorded, so the planner must neither fold it away nor move it to another process. Arithmetic follows
-- IEEE 754: 1/0 is Infinity, 0/0 is NaN, no error is raised; every NaN has the same bits.

-- ---- shapes at plan time ----

CREATE FUNCTION tensor_broadcast_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_broadcast_support(internal) IS
    'Planner support, declared shapes checked before rows are read: shapes of two operands that are broadcast';

CREATE FUNCTION tensor_matmul_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_matmul_support(internal) IS
    'Planner support, declared shapes checked before rows are read: shapes of a matrix product';

CREATE FUNCTION tensor_same_shape_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_same_shape_support(internal) IS
    'Planner support, declared shapes checked before rows are read: the result has the shape of the first argument';

CREATE FUNCTION tensor_transpose_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_transpose_support(internal) IS
    'Planner support, declared shapes checked before rows are read: the last two lengths are swapped';

CREATE FUNCTION tensor_layernorm_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_layernorm_support(internal) IS
    'Planner support, declared shapes checked before rows are read: layer normalisation';

CREATE FUNCTION tensor_attention_support(internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_attention_support(internal) IS
    'Planner support, declared shapes checked before rows are read: attention';

-- ---- arithmetic ----

CREATE FUNCTION tensor_add(tensor, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_add(tensor, tensor) IS 'a + b, element by element; shapes are broadcast';
CREATE OPERATOR + (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_add, COMMUTATOR = +);
COMMENT ON OPERATOR + (tensor, tensor) IS 'Sum of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_add(tensor, double precision) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'tensor_add_number';
COMMENT ON FUNCTION tensor_add(tensor, double precision) IS
    'a + b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR + (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_add, COMMUTATOR = +);
COMMENT ON OPERATOR + (tensor, double precision) IS 'Sum of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_add(double precision, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'number_add_tensor';
COMMENT ON FUNCTION tensor_add(double precision, tensor) IS
    'a + b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR + (LEFTARG = double precision, RIGHTARG = tensor, FUNCTION = tensor_add, COMMUTATOR = +);
COMMENT ON OPERATOR + (double precision, tensor) IS 'Sum of each pair of elements; shapes are broadcast';

CREATE FUNCTION tensor_sub(tensor, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_sub(tensor, tensor) IS 'a - b, element by element; shapes are broadcast';
CREATE OPERATOR - (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_sub);
COMMENT ON OPERATOR - (tensor, tensor) IS 'Difference of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_sub(tensor, double precision) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'tensor_sub_number';
COMMENT ON FUNCTION tensor_sub(tensor, double precision) IS
    'a - b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR - (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_sub);
COMMENT ON OPERATOR - (tensor, double precision) IS 'Difference of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_sub(double precision, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'number_sub_tensor';
COMMENT ON FUNCTION tensor_sub(double precision, tensor) IS
    'a - b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR - (LEFTARG = double precision, RIGHTARG = tensor, FUNCTION = tensor_sub);
COMMENT ON OPERATOR - (double precision, tensor) IS 'Difference of each pair of elements; shapes are broadcast';

CREATE FUNCTION tensor_mul(tensor, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_mul(tensor, tensor) IS 'a * b, element by element; shapes are broadcast';
CREATE OPERATOR * (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (tensor, tensor) IS 'Product of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_mul(tensor, double precision) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'tensor_mul_number';
COMMENT ON FUNCTION tensor_mul(tensor, double precision) IS
    'a * b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR * (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (tensor, double precision) IS 'Product of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_mul(double precision, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'number_mul_tensor';
COMMENT ON FUNCTION tensor_mul(double precision, tensor) IS
    'a * b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR * (LEFTARG = double precision, RIGHTARG = tensor, FUNCTION = tensor_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (double precision, tensor) IS 'Product of each pair of elements; shapes are broadcast';

CREATE FUNCTION tensor_div(tensor, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_div(tensor, tensor) IS 'a / b, element by element; shapes are broadcast';
CREATE OPERATOR / (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_div);
COMMENT ON OPERATOR / (tensor, tensor) IS 'Quotient of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_div(tensor, double precision) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'tensor_div_number';
COMMENT ON FUNCTION tensor_div(tensor, double precision) IS
    'a / b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR / (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_div);
COMMENT ON OPERATOR / (tensor, double precision) IS 'Quotient of each pair of elements; shapes are broadcast';
CREATE FUNCTION tensor_div(double precision, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_broadcast_support
    AS 'MODULE_PATHNAME', 'number_div_tensor';
COMMENT ON FUNCTION tensor_div(double precision, tensor) IS
    'a / b, element by element; shapes are broadcast; the number is rounded to float32 first';
CREATE OPERATOR / (LEFTARG = double precision, RIGHTARG = tensor, FUNCTION = tensor_div);
COMMENT ON OPERATOR / (double precision, tensor) IS 'Quotient of each pair of elements; shapes are broadcast';

CREATE FUNCTION tensor_neg(tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_neg(tensor) IS '-x of each element';
CREATE OPERATOR - (RIGHTARG = tensor, FUNCTION = tensor_neg);
COMMENT ON OPERATOR - (NONE, tensor) IS '-x of each element';

CREATE FUNCTION tensor_matmul(tensor, tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 1000 SUPPORT tensor_matmul_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_matmul(tensor, tensor) IS
    'Matrix product (...,M,K) @ (...,K,N) = (...,M,N), leading axes broadcast; (K) is a row on the left, a column '
    'on the right';
CREATE OPERATOR @ (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_matmul);
COMMENT ON OPERATOR @ (tensor, tensor) IS
    'Matrix product (...,M,K) @ (...,K,N); binds less tightly than + - * /: write (x @ w) + b';

CREATE FUNCTION exp(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_exp';
COMMENT ON FUNCTION exp(tensor) IS 'e to the power of each element';
CREATE FUNCTION log(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_log';
COMMENT ON FUNCTION log(tensor) IS 'Natural logarithm of each element: NaN below 0, -Infinity at 0';
CREATE FUNCTION sin(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_sin';
COMMENT ON FUNCTION sin(tensor) IS 'Sine of each element, in radians';
CREATE FUNCTION cos(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_cos';
COMMENT ON FUNCTION cos(tensor) IS 'Cosine of each element, in radians';
CREATE FUNCTION tanh(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_tanh';
COMMENT ON FUNCTION tanh(tensor) IS 'Hyperbolic tangent of each element';
CREATE FUNCTION sqrt(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_sqrt';
COMMENT ON FUNCTION sqrt(tensor) IS 'Square root of each element: NaN below 0';
CREATE FUNCTION relu(t tensor) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'tensor_relu';
COMMENT ON FUNCTION relu(tensor) IS 'The larger of each element and 0';

-- ---- shape, slicing, concatenation ----

CREATE FUNCTION shape(t tensor) RETURNS integer[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_shape';
COMMENT ON FUNCTION shape(tensor) IS
    'Lengths of the axes: {2,3} for a 2 by 3 matrix, {} for a scalar; a stored value is not read';
CREATE FUNCTION ndim(t tensor) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_ndim';
COMMENT ON FUNCTION ndim(tensor) IS 'Number of axes; a stored value is not read';
CREATE FUNCTION numel(t tensor) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_numel';
COMMENT ON FUNCTION numel(tensor) IS 'Number of elements; a stored value is not read';
CREATE FUNCTION reshape(t tensor, shape integer[]) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_reshape';
COMMENT ON FUNCTION reshape(tensor, integer[]) IS
    'The same elements in row-major order under another shape; one length may be -1 and is inferred';
CREATE FUNCTION transpose(t tensor, axes integer[] DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE SUPPORT tensor_transpose_support AS 'MODULE_PATHNAME', 'tensor_transpose';
COMMENT ON FUNCTION transpose(tensor, integer[]) IS
    'Axes in the order listed, counted from 0; without a list the last two are swapped';
CREATE FUNCTION slice(t tensor, start integer, stop integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_slice';
COMMENT ON FUNCTION slice(tensor, integer, integer) IS
    'Rows start up to, not including, stop of the first axis, counted from 0, negative from the end; stop NULL is '
    'the end; only these rows of a stored value are read';
CREATE FUNCTION slice(t tensor, starts integer[], stops integer[]) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_slice_axes';
COMMENT ON FUNCTION slice(tensor, integer[], integer[]) IS
    'The part from starts up to, not including, stops, one of each for the first axes; the others stay whole';
CREATE FUNCTION slice(t tensor, starts integer[], stops integer[], steps integer[]) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_slice_axes';
COMMENT ON FUNCTION slice(tensor, integer[], integer[], integer[]) IS
    'The same part, of which every steps-th element is kept along each of the first axes';
CREATE FUNCTION concat(tensors tensor[], axis integer DEFAULT 0) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_concat';
COMMENT ON FUNCTION concat(tensor[], integer) IS
    'Tensors joined along an existing axis: (2,3) and (4,3) give (6,3) along axis 0';
-- PostgreSQL has its own concat of any types, and untyped literals match both: these three functions keep the
-- results of concat('a', 'b') and concat('step ', 1) unchanged.
CREATE FUNCTION concat(text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE RETURN pg_catalog.concat(VARIADIC ARRAY[$1]);
COMMENT ON FUNCTION concat(text) IS 'pg_catalog.concat, for literals without a type';
CREATE FUNCTION concat(text, text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE RETURN pg_catalog.concat(VARIADIC ARRAY[$1, $2]);
COMMENT ON FUNCTION concat(text, text) IS 'pg_catalog.concat, for literals without a type';
CREATE FUNCTION concat(text, integer) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE RETURN pg_catalog.concat(VARIADIC ARRAY[$1, $2::text]);
COMMENT ON FUNCTION concat(text, integer) IS 'pg_catalog.concat, for literals without a type';

CREATE FUNCTION tensor_get(t tensor, VARIADIC index integer[]) RETURNS real
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_get(tensor, VARIADIC integer[]) IS
    'One element, at one index per axis, counted from 0, negative from the end; nothing else of a stored value is '
    'read';
CREATE FUNCTION tensor_rows(t tensor, OUT idx integer[], OUT value real) RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_rows(tensor) IS
    'A row for each element: its index, counted from 0 along each axis, and its value';
CREATE FUNCTION tensor_matrix(t tensor, OUT i integer, OUT j integer, OUT value real) RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_matrix(tensor) IS
    'A row for each element of a matrix: row i and column j, counted from 0, and its value';

-- ---- reductions: over all elements, or along one axis, which the result lacks ----
-- Axes count from 0; negative ones count from the end, -1 is the last.

CREATE FUNCTION tensor_sum(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_sum(tensor, integer) IS 'Sum of the elements; 0 if there are none';
CREATE FUNCTION tensor_max(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_max(tensor, integer) IS 'Largest element; NaN if there is one';
CREATE FUNCTION tensor_min(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_min(tensor, integer) IS 'Smallest element; NaN if there is one';
CREATE FUNCTION mean(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_mean';
COMMENT ON FUNCTION mean(tensor, integer) IS 'Mean of the elements; NaN if there are none';
CREATE FUNCTION var(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_var';
COMMENT ON FUNCTION var(tensor, integer) IS
    'Variance, the mean of (x - mean)^2: divided by n, as NumPy and layer normalisation do, not n - 1';
CREATE FUNCTION norm(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tensor_norm';
COMMENT ON FUNCTION norm(tensor, integer) IS 'Euclidean norm, sqrt(sum of x^2)';
CREATE FUNCTION argmax(t tensor, axis integer DEFAULT NULL) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_argmax';
COMMENT ON FUNCTION argmax(tensor, integer) IS
    'Index of the largest element, counted from 0, the lowest among equals; without an axis in the flattened tensor';

-- ---- creation ----
-- STABLE, although they depend only on their arguments: as constants, large ones would be copied with every
-- plan.

CREATE FUNCTION zeros(shape integer[]) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_zeros';
COMMENT ON FUNCTION zeros(integer[]) IS 'A tensor of zeros';
CREATE FUNCTION ones(shape integer[]) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_ones';
COMMENT ON FUNCTION ones(integer[]) IS 'A tensor of ones';
CREATE FUNCTION eye(n integer) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_eye';
COMMENT ON FUNCTION eye(integer) IS 'The n by n identity matrix';
CREATE FUNCTION randn(shape integer[], seed bigint) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_randn';
COMMENT ON FUNCTION randn(integer[], bigint) IS
    'Independent standard normal numbers, the same for the same seed on every machine';

-- ---- comparison ----
-- Ordered by shape first (number of axes, then lengths), then by elements: -Infinity ... -0 +0 ... Infinity
-- NaN. Equal means identical bits: NaN equals NaN, -0 does not equal +0.

CREATE FUNCTION tensor_eq(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_eq(tensor, tensor) IS 'The same shape and the same bits';
CREATE OPERATOR = (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_eq, COMMUTATOR = =, NEGATOR = <>,
    RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
COMMENT ON OPERATOR = (tensor, tensor) IS 'The same shape and the same bits';
CREATE FUNCTION tensor_ne(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_ne(tensor, tensor) IS 'Another shape or other bits';
CREATE OPERATOR <> (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_ne, COMMUTATOR = <>, NEGATOR = =,
    RESTRICT = neqsel, JOIN = neqjoinsel);
COMMENT ON OPERATOR <> (tensor, tensor) IS 'Another shape or other bits';
CREATE FUNCTION tensor_lt(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_lt(tensor, tensor) IS 'Before in the order of tensors';
CREATE OPERATOR < (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_lt, COMMUTATOR = >, NEGATOR = >=,
    RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
COMMENT ON OPERATOR < (tensor, tensor) IS 'Before in the order of tensors';
CREATE FUNCTION tensor_le(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_le(tensor, tensor) IS 'Before in the order of tensors, or equal';
CREATE OPERATOR <= (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_le, COMMUTATOR = >=, NEGATOR = >,
    RESTRICT = scalarlesel, JOIN = scalarlejoinsel);
COMMENT ON OPERATOR <= (tensor, tensor) IS 'Before in the order of tensors, or equal';
CREATE FUNCTION tensor_gt(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_gt(tensor, tensor) IS 'After in the order of tensors';
CREATE OPERATOR > (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_gt, COMMUTATOR = <, NEGATOR = <=,
    RESTRICT = scalargtsel, JOIN = scalargtjoinsel);
COMMENT ON OPERATOR > (tensor, tensor) IS 'After in the order of tensors';
CREATE FUNCTION tensor_ge(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_ge(tensor, tensor) IS 'After in the order of tensors, or equal';
CREATE OPERATOR >= (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_ge, COMMUTATOR = <=, NEGATOR = <,
    RESTRICT = scalargesel, JOIN = scalargejoinsel);
COMMENT ON OPERATOR >= (tensor, tensor) IS 'After in the order of tensors, or equal';
CREATE FUNCTION tensor_cmp(tensor, tensor) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_cmp(tensor, tensor) IS '-1, 0 or 1: before, equal, after';
CREATE FUNCTION tensor_hash(tensor) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_hash(tensor) IS 'Hash of shape and elements';
CREATE FUNCTION tensor_hash_extended(tensor, bigint) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_hash_extended(tensor, bigint) IS 'Seeded hash of shape and elements';
CREATE OPERATOR CLASS tensor_btree_ops DEFAULT FOR TYPE tensor USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 tensor_cmp(tensor, tensor);
CREATE OPERATOR CLASS tensor_hash_ops DEFAULT FOR TYPE tensor USING hash AS
    OPERATOR 1 =, FUNCTION 1 tensor_hash(tensor), FUNCTION 2 tensor_hash_extended(tensor, bigint);

CREATE FUNCTION tensor_close(tensor, tensor) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_close(tensor, tensor) IS
    'The same shape, and |a - b| <= 1e-8 + 1e-5 max(|a|, |b|) for each pair; NaN is close to NaN';
CREATE FUNCTION tensor_close(a tensor, b tensor, rtol double precision, atol double precision) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_close_within';
COMMENT ON FUNCTION tensor_close(tensor, tensor, double precision, double precision) IS
    'The same shape, and |a - b| <= atol + rtol max(|a|, |b|) for each pair; NaN is close to NaN';
CREATE OPERATOR ~= (LEFTARG = tensor, RIGHTARG = tensor, FUNCTION = tensor_close, COMMUTATOR = ~=);
COMMENT ON OPERATOR ~= (tensor, tensor) IS 'Close: |a - b| <= 1e-8 + 1e-5 max(|a|, |b|) for each pair of elements';

-- ---- aggregates ----
-- Rows are added in the order of the input: with ORDER BY the result is reproducible bit for bit.

CREATE FUNCTION tensor_sum_step(internal, tensor) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_sum_step(internal, tensor) IS 'Transition function of sum and avg';
CREATE FUNCTION tensor_sum_final(internal) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_sum_final(internal) IS 'Final function of sum';
CREATE FUNCTION tensor_avg_final(internal) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_avg_final(internal) IS 'Final function of avg';
CREATE FUNCTION tensor_stack_step(internal, tensor) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_stack_step(internal, tensor) IS 'Transition function of stack';
CREATE FUNCTION tensor_stack_final(internal) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_stack_final(internal) IS 'Final function of stack';

CREATE AGGREGATE sum(tensor) (
    SFUNC = tensor_sum_step, STYPE = internal, FINALFUNC = tensor_sum_final, SSPACE = 1000000);
COMMENT ON AGGREGATE sum(tensor) IS
    'Sum of tensors of one shape, in float32 in the order of the rows: ((a + b) + c) + ...; NULLs are left out';
CREATE AGGREGATE avg(tensor) (
    SFUNC = tensor_sum_step, STYPE = internal, FINALFUNC = tensor_avg_final, SSPACE = 1000000);
COMMENT ON AGGREGATE avg(tensor) IS 'sum(tensor) divided by the number of rows; NULLs are left out';
CREATE AGGREGATE stack(tensor) (
    SFUNC = tensor_stack_step, STYPE = internal, FINALFUNC = tensor_stack_final, SSPACE = 1000000);
COMMENT ON AGGREGATE stack(tensor) IS
    'Tensors of one shape as rows of a new first axis: n times (2,3) give (n,2,3); NULLs are left out';

-- ---- pictures ----

CREATE FUNCTION tensor_png(image tensor, low real DEFAULT -1, high real DEFAULT 1, clip boolean DEFAULT false,
    columns int DEFAULT 8, zoom int DEFAULT 1) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_png(tensor, real, real, boolean, int, int) IS
    'A PNG file of an image, (H,W), (H,W,C) or (C,H,W) with C 1 (grey) or 3 (colour), or of several, (N,H,W,C) or '
    '(N,C,H,W), with this many side by side: low is drawn black and high white, values out of range are an error, or '
    'with clip drawn as the nearer end; each value is a square of zoom pixels';
