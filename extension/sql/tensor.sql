-- The type tensor: float32 elements in row-major order, 0 to 8 dimensions.

CREATE TYPE tensor;

CREATE FUNCTION tensor_in(cstring, oid, integer) RETURNS tensor
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor_in(cstring, oid, integer) IS 'Text form of a tensor: nested brackets such as [[1,2],[3,4]], or one number';
CREATE FUNCTION tensor_out(tensor) RETURNS cstring
    AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor_out(tensor) IS 'Text form of a tensor; a summary when it has more than pg_llm.display_limit elements';
CREATE FUNCTION tensor_recv(internal, oid, integer) RETURNS tensor
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor_recv(internal, oid, integer) IS 'Binary form of a tensor, all little-endian: int32 ndim, int32 dimensions, float32 elements';
CREATE FUNCTION tensor_send(tensor) RETURNS bytea
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor_send(tensor) IS 'Binary form of a tensor, all little-endian: int32 ndim, int32 dimensions, float32 elements';
CREATE FUNCTION tensor_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor_typmod_in(cstring[]) IS 'Declared shape to type modifier: tensor(768), tensor(50257,768)';
CREATE FUNCTION tensor_typmod_out(integer) RETURNS cstring
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor_typmod_out(integer) IS 'Type modifier to declared shape';

-- Category N, not U: beside exp(double precision) and exp(numeric) there will be exp(tensor), and only among
-- candidates of one category does PostgreSQL still prefer double precision for exp('1').
-- EXTERNAL: uncompressed out of line, so that a slice of a large value is read alone.
CREATE TYPE tensor (
    INPUT = tensor_in, OUTPUT = tensor_out, RECEIVE = tensor_recv, SEND = tensor_send,
    TYPMOD_IN = tensor_typmod_in, TYPMOD_OUT = tensor_typmod_out,
    INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = external, CATEGORY = 'N'
);
COMMENT ON TYPE tensor IS 'An array of float32 numbers with 0 to 8 dimensions; tensor(2,3) declares the shape';

CREATE FUNCTION tensor(tensor, integer, boolean) RETURNS tensor
    AS 'MODULE_PATHNAME', 'tensor_coerce' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION tensor(tensor, integer, boolean) IS 'The tensor itself if its shape is the declared one';
CREATE CAST (tensor AS tensor) WITH FUNCTION tensor(tensor, integer, boolean) AS IMPLICIT;
