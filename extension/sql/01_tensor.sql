-- The type tensor: float32 elements in row-major order, 0 to 8 dimensions.

CREATE TYPE tensor;

CREATE FUNCTION tensor_in(cstring, oid, integer) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_in(cstring, oid, integer) IS
    'Text form of a tensor: nested brackets such as [[1,2],[3,4]], or one number';
CREATE FUNCTION tensor_out(tensor) RETURNS cstring
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_out(tensor) IS
    'Text form of a tensor; a summary when it has more than pg_llm.display_limit elements';
CREATE FUNCTION tensor_recv(internal, oid, integer) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_recv(internal, oid, integer) IS
    'Binary form of a tensor, all little-endian: int32 ndim, int32 dimensions, float32 elements';
CREATE FUNCTION tensor_send(tensor) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_send(tensor) IS
    'Binary form of a tensor, all little-endian: int32 ndim, int32 dimensions, float32 elements';
CREATE FUNCTION tensor_typmod_in(cstring[]) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_typmod_in(cstring[]) IS 'Declared shape to type modifier: tensor(768), tensor(50257,768)';
CREATE FUNCTION tensor_typmod_out(integer) RETURNS cstring
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_typmod_out(integer) IS 'Type modifier to declared shape';

-- Category N, not U: exp(tensor) exists beside exp(double precision) and exp(numeric), and only among
-- candidates of one category does PostgreSQL still prefer double precision for exp('1').
-- EXTERNAL: stored uncompressed and out of line, so that a slice of a large value can be read alone.
CREATE TYPE tensor (
    INPUT = tensor_in, OUTPUT = tensor_out, RECEIVE = tensor_recv, SEND = tensor_send,
    TYPMOD_IN = tensor_typmod_in, TYPMOD_OUT = tensor_typmod_out,
    INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = external, CATEGORY = 'N'
);
COMMENT ON TYPE tensor IS 'An array of float32 numbers with 0 to 8 dimensions; tensor(2,3) declares the shape';

CREATE FUNCTION tensor(tensor, integer, boolean) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tensor_coerce';
COMMENT ON FUNCTION tensor(tensor, integer, boolean) IS 'The tensor itself if its shape is the declared one';
CREATE CAST (tensor AS tensor) WITH FUNCTION tensor(tensor, integer, boolean) AS IMPLICIT;

-- ---- casts ----

CREATE FUNCTION tensor(real[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'array_to_tensor';
COMMENT ON FUNCTION tensor(real[]) IS 'A tensor of the array''s shape';
CREATE FUNCTION tensor(double precision[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'array_to_tensor';
COMMENT ON FUNCTION tensor(double precision[]) IS 'A tensor of the array''s shape, elements rounded to float32';
CREATE FUNCTION tensor(numeric[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'array_to_tensor';
COMMENT ON FUNCTION tensor(numeric[]) IS 'A tensor of the array''s shape, elements rounded to float32';
CREATE FUNCTION tensor(integer[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'array_to_tensor';
COMMENT ON FUNCTION tensor(integer[]) IS
    'A tensor of the array''s shape; beyond 16777216 elements are rounded to float32';
CREATE FUNCTION tensor(bigint[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'array_to_tensor';
COMMENT ON FUNCTION tensor(bigint[]) IS
    'A tensor of the array''s shape; beyond 16777216 elements are rounded to float32';
CREATE CAST (real[] AS tensor) WITH FUNCTION tensor(real[]) AS ASSIGNMENT;
CREATE CAST (double precision[] AS tensor) WITH FUNCTION tensor(double precision[]) AS ASSIGNMENT;
CREATE CAST (numeric[] AS tensor) WITH FUNCTION tensor(numeric[]) AS ASSIGNMENT;
CREATE CAST (integer[] AS tensor) WITH FUNCTION tensor(integer[]) AS ASSIGNMENT;
CREATE CAST (bigint[] AS tensor) WITH FUNCTION tensor(bigint[]) AS ASSIGNMENT;

CREATE FUNCTION tensor_to_float4_array(tensor) RETURNS real[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_float4_array(tensor) IS
    'An array of the tensor''s shape; a scalar becomes an array of one element';
CREATE FUNCTION tensor_to_float8_array(tensor) RETURNS double precision[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_float8_array(tensor) IS
    'An array of the tensor''s shape; a scalar becomes an array of one element';
CREATE FUNCTION tensor_to_int4_array(tensor) RETURNS integer[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_int4_array(tensor) IS
    'An array of the tensor''s shape, whose elements must be integers';
CREATE CAST (tensor AS real[]) WITH FUNCTION tensor_to_float4_array(tensor) AS ASSIGNMENT;
CREATE CAST (tensor AS double precision[]) WITH FUNCTION tensor_to_float8_array(tensor) AS ASSIGNMENT;
CREATE CAST (tensor AS integer[]) WITH FUNCTION tensor_to_int4_array(tensor);

CREATE FUNCTION tensor_to_json(tensor) RETURNS json
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_json(tensor) IS
    'Nested arrays of numbers, whatever pg_llm.display_limit; "NaN", "Infinity" and "-Infinity" are strings';
CREATE FUNCTION tensor_to_jsonb(tensor) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN tensor_to_json($1)::jsonb;
COMMENT ON FUNCTION tensor_to_jsonb(tensor) IS 'As tensor_to_json; a zero has no sign';
-- PostgreSQL's functions that build JSON, to_jsonb and jsonb_build_object among them, use the cast to json.
CREATE CAST (tensor AS json) WITH FUNCTION tensor_to_json(tensor);
CREATE CAST (tensor AS jsonb) WITH FUNCTION tensor_to_jsonb(tensor);

CREATE FUNCTION tensor(double precision) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'number_to_tensor';
COMMENT ON FUNCTION tensor(double precision) IS 'A scalar, rounded to float32';
CREATE FUNCTION tensor(real) RETURNS tensor
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN tensor($1::double precision);
COMMENT ON FUNCTION tensor(real) IS 'A scalar';
CREATE FUNCTION tensor(numeric) RETURNS tensor
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN tensor($1::double precision);
COMMENT ON FUNCTION tensor(numeric) IS 'A scalar, rounded to float32';
CREATE FUNCTION tensor(integer) RETURNS tensor
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN tensor($1::double precision);
COMMENT ON FUNCTION tensor(integer) IS 'A scalar, rounded to float32 beyond 16777216';
CREATE FUNCTION tensor_to_float4(tensor) RETURNS real
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_float4(tensor) IS 'The only element of a tensor that has one';
CREATE FUNCTION tensor_to_float8(tensor) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_float8(tensor) IS 'The only element of a tensor that has one';
CREATE FUNCTION tensor_to_numeric(tensor) RETURNS numeric
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN tensor_to_float4($1)::numeric;
COMMENT ON FUNCTION tensor_to_numeric(tensor) IS
    'The only element of a tensor that has one, to the six digits of real: for round(…, digits)';
CREATE FUNCTION tensor_to_int4(tensor) RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_int4(tensor) IS 'The only element of a tensor that has one, if it is an integer';
CREATE CAST (double precision AS tensor) WITH FUNCTION tensor(double precision) AS ASSIGNMENT;
CREATE CAST (real AS tensor) WITH FUNCTION tensor(real) AS ASSIGNMENT;
CREATE CAST (numeric AS tensor) WITH FUNCTION tensor(numeric) AS ASSIGNMENT;
CREATE CAST (integer AS tensor) WITH FUNCTION tensor(integer) AS ASSIGNMENT;
CREATE CAST (tensor AS real) WITH FUNCTION tensor_to_float4(tensor) AS ASSIGNMENT;
CREATE CAST (tensor AS double precision) WITH FUNCTION tensor_to_float8(tensor) AS ASSIGNMENT;
CREATE CAST (tensor AS numeric) WITH FUNCTION tensor_to_numeric(tensor);
CREATE CAST (tensor AS integer) WITH FUNCTION tensor_to_int4(tensor);

CREATE FUNCTION tensor(bytea, shape integer[]) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'bytea_to_tensor';
COMMENT ON FUNCTION tensor(bytea, integer[]) IS
    'A tensor of this shape from raw little-endian float32 elements in row-major order';
CREATE FUNCTION tensor_to_bytea(tensor) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION tensor_to_bytea(tensor) IS
    'The elements as raw little-endian float32 in row-major order, without the shape';
CREATE CAST (tensor AS bytea) WITH FUNCTION tensor_to_bytea(tensor);
