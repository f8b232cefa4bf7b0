-- Expressions as they are written in other languages. Those with a gradient are made of operations that have one, which
-- the tape shows.

CREATE FUNCTION softmax(t tensor, axis integer DEFAULT -1) RETURNS tensor
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SUPPORT tensor_same_shape_support AS 'MODULE_PATHNAME', 'pg_llm_softmax';
COMMENT ON FUNCTION softmax(tensor, integer) IS 'pg_llm_softmax under its usual name';

CREATE FUNCTION abs(t tensor) RETURNS tensor
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE RETURN relu(t) + relu(- t);
COMMENT ON FUNCTION abs(tensor) IS 'The magnitude of each element: relu(t) + relu(-t)';

CREATE FUNCTION _llm_extremes(a tensor, b tensor) RETURNS tensor
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE
    RETURN (SELECT concat(ARRAY[reshape(x, 1 || shape(x)), reshape(y, 1 || shape(y))])
        FROM (SELECT a + pg_llm_zeros_like(b) AS x, b + pg_llm_zeros_like(a) AS y) AS broadcast);
COMMENT ON FUNCTION _llm_extremes(tensor, tensor) IS 'Both tensors, broadcast, along a new first axis';

CREATE FUNCTION maximum(a tensor, b tensor) RETURNS tensor
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE RETURN tensor_max(_llm_extremes(a, b), 0);
COMMENT ON FUNCTION maximum(tensor, tensor) IS
    'The larger of each pair of elements; shapes are broadcast. GREATEST compares tensors as a whole';
-- real, not double precision: an untyped literal beside a tensor is then a tensor.
CREATE FUNCTION maximum(a tensor, b real) RETURNS tensor
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE RETURN maximum(a, b::tensor);
COMMENT ON FUNCTION maximum(tensor, real) IS
    'The larger of each element and the number';
CREATE FUNCTION minimum(a tensor, b tensor) RETURNS tensor
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE RETURN tensor_min(_llm_extremes(a, b), 0);
COMMENT ON FUNCTION minimum(tensor, tensor) IS
    'The smaller of each pair of elements; shapes are broadcast. LEAST compares tensors as a whole';
CREATE FUNCTION minimum(a tensor, b real) RETURNS tensor
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE RETURN minimum(a, b::tensor);
COMMENT ON FUNCTION minimum(tensor, real) IS
    'The smaller of each element and the number';

CREATE FUNCTION tensor_pow(t tensor, exponent double precision) RETURNS tensor
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    square @extschema@.tensor := t;
    power @extschema@.tensor;
    left_ int;
BEGIN
    IF exponent = 0.5 THEN
        RETURN @extschema@.sqrt(t);
    ELSIF exponent = 0 THEN
        RETURN @extschema@.pg_llm_ones_like(t);
    ELSIF exponent <> trunc(exponent) OR abs(exponent) > 64 THEN
        RETURN @extschema@.exp(@extschema@.log(t) OPERATOR(@extschema@.*) exponent);
    END IF;
    left_ := abs(exponent);
    LOOP
        IF left_ % 2 = 1 THEN
            power := CASE WHEN power IS NULL THEN square ELSE power OPERATOR(@extschema@.*) square END;
        END IF;
        left_ := left_ / 2;
        EXIT WHEN left_ = 0;
        square := square OPERATOR(@extschema@.*) square;
    END LOOP;
    RETURN CASE WHEN exponent < 0 THEN 1::float8 OPERATOR(@extschema@./) power ELSE power END;
END $$;
COMMENT ON FUNCTION tensor_pow(tensor, double precision) IS
    'Each element to a power: products for whole exponents from -64 to 64, sqrt for 0.5, else exp(log(t) * exponent), '
    'NaN below 0';
CREATE OPERATOR ^ (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_pow);
COMMENT ON OPERATOR ^ (tensor, double precision) IS 'Each element to a power; - x ^ 2 is (- x) ^ 2';

-- Between two tensors < and > give their order, for ORDER BY and indexes; a - b > 0 compares their elements.
CREATE FUNCTION tensor_lt(tensor, double precision) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_lt_number';
COMMENT ON FUNCTION tensor_lt(tensor, double precision) IS '1 where the element is less than the number, else 0';
CREATE FUNCTION tensor_le(tensor, double precision) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_le_number';
COMMENT ON FUNCTION tensor_le(tensor, double precision) IS '1 where the element is at most the number, else 0';
CREATE FUNCTION tensor_gt(tensor, double precision) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_gt_number';
COMMENT ON FUNCTION tensor_gt(tensor, double precision) IS '1 where the element is greater than the number, else 0';
CREATE FUNCTION tensor_ge(tensor, double precision) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_ge_number';
COMMENT ON FUNCTION tensor_ge(tensor, double precision) IS '1 where the element is at least the number, else 0';
CREATE OPERATOR < (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_lt);
COMMENT ON OPERATOR < (tensor, double precision) IS '1 where the element is less than the number, else 0';
CREATE OPERATOR <= (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_le);
COMMENT ON OPERATOR <= (tensor, double precision) IS '1 where the element is at most the number, else 0';
CREATE OPERATOR > (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_gt);
COMMENT ON OPERATOR > (tensor, double precision) IS '1 where the element is greater than the number, else 0';
CREATE OPERATOR >= (LEFTARG = tensor, RIGHTARG = double precision, FUNCTION = tensor_ge);
COMMENT ON OPERATOR >= (tensor, double precision) IS '1 where the element is at least the number, else 0';

CREATE FUNCTION tensor_max_final(internal) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_max_final(internal) IS 'Final function of max';
CREATE FUNCTION tensor_min_final(internal) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_min_final(internal) IS 'Final function of min';
CREATE AGGREGATE max(tensor) (
    SFUNC = tensor_stack_step, STYPE = internal, FINALFUNC = tensor_max_final, SSPACE = 1000000);
COMMENT ON AGGREGATE max(tensor) IS
    'The largest of each element over tensors of one shape; NULLs are left out. Of one tensor: tensor_max';
CREATE AGGREGATE min(tensor) (
    SFUNC = tensor_stack_step, STYPE = internal, FINALFUNC = tensor_min_final, SSPACE = 1000000);
COMMENT ON AGGREGATE min(tensor) IS
    'The smallest of each element over tensors of one shape; NULLs are left out. Of one tensor: tensor_min';
