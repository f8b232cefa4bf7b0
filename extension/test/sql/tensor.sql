-- The type tensor: text form, declared shapes, casts, summaries.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;

-- The error of a query: SQLSTATE, message, hint.
CREATE FUNCTION refused(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text; hint text;
BEGIN
    EXECUTE query;
    RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || message || COALESCE(E'\n  ' || NULLIF(hint, ''), '');
END $$;
CREATE FUNCTION refused_text(form text) RETURNS text LANGUAGE sql AS $$ SELECT refused(format('SELECT %L::tensor', form)) $$;

-- Text form.
SELECT form, form::tensor, shape(form::tensor) FROM unnest(ARRAY[
    '3', '-0', ' [1, 2.5,.5,5.] ', '[[1,2],[3,4]]', '[[[1]],[[2]]]', '[]', '[[],[]]', '[[[]]]', 'tensor(0,3) []',
    '[[[[[[[[7]]]]]]]]', '[NaN,nan,inf,-Infinity,+inf,INFINITY]', '[1e-45,1e-60,3.4028235e38,16777217,0.1]']) form;
SELECT form, refused_text(form) FROM unnest(ARRAY[
    '', '[', '[1,2', '[1,2]]', '[1,]', '[,1]', '[1 2]', '1 2', '[1,[2]]', '[[1],2]', '[[1,2],[3]]', '[[],[1]]', '{1,2}',
    '[a]', '[0x10]', '[nan(1)]', '[--1]', '[1e]', '1e39', '[-3.5e38]', '[[[[[[[[[1]]]]]]]]]',
    'tensor(2,3) [1, 2, 3, …] mean 0 sd 1', 'tensor(2,3) []', 'tensor(0,-3) []', 'tensor', 'tensor(0) [1]']) form;
SELECT refused_text('[' || repeat('[', 1000000));
SELECT refused_text('tensor(0,2147483647,2147483647,2147483647,2147483647) []');

-- Text and back: the same value.
SELECT count(*), bool_and(t = t::text::tensor) FROM (
    SELECT tensor('\xffffff7f01000000000080800000803f00000000000000800000807f'::bytea, '{7}')
    UNION ALL SELECT randn(ARRAY[n % 7, n % 5, n % 3], n) * (10 ^ (n % 60 - 30)) FROM generate_series(1, 200) n) v (t);

-- Summaries are for display only.
SET pg_llm.display_limit = 4;
SELECT '[1,2,3,4]'::tensor, '[[1,2,3],[4,5,6]]'::tensor, '[1,2,3,NaN,5]'::tensor, '[inf,1,1,1,1]'::tensor, '[[],[]]'::tensor;
SELECT refused_text('[1,2,3,4,5]'::tensor::text);
RESET pg_llm.display_limit;

-- Declared shapes.
CREATE TABLE declared (a tensor(2), b tensor(2,2), c tensor(1,2,3), d tensor(1,2,1,2));
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = 'declared'::regclass AND attnum > 0 ORDER BY attnum;
INSERT INTO declared (a) VALUES ('[1,2]'), (NULL), ('[1]'::tensor + '[2,3]') RETURNING a;
SELECT refused($$ INSERT INTO declared (a) VALUES ('[1,2,3]') $$);
SELECT refused($$ INSERT INTO declared (b) SELECT a FROM declared $$);
SELECT refused($$ UPDATE declared SET b = zeros(ARRAY[3,2]) $$);
SELECT refused($$ SELECT '[1,2,3]'::tensor(4) $$);
SELECT refused($$ SELECT '3'::tensor(1) $$);
SELECT '[[1,2]]'::tensor(1,2), NULL::tensor(3), ARRAY['[1,2]'::tensor]::tensor(2)[];
CREATE TABLE largest (a tensor(536870912), b tensor(65536,8192), c tensor(512,1024,1024), d tensor(32,64,512,512), e tensor(1,1,1,1));
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'largest'::regclass AND attnum > 0 ORDER BY attnum;
SELECT shape, refused(format('SELECT NULL::tensor(%s)', shape)) FROM unnest(ARRAY[
    '536870913', '65537,1', '1,8193', '513,1,1', '1,1,1025', '33,1,1,1', '1,1,513,1', '1,1,1,1,1', '0', '2,-1', 'x', '99999999999']) shape;
CREATE DOMAIN pair AS tensor(2) CHECK (tensor_sum(VALUE)::real >= 0);
SELECT refused($$ SELECT '[1,2,3]'::pair $$);
SELECT refused($$ SELECT '[-1,0]'::pair $$);
SELECT '[1,2]'::pair + 1;
DROP TABLE declared, largest;

-- To arrays of any dimension and back.
SELECT ARRAY[1.5, 2]::tensor, ARRAY[1, 2]::tensor, ARRAY[1::bigint]::tensor, '{{1,2},{3,4}}'::real[]::tensor,
    '{{{1}},{{2}}}'::float8[]::tensor, '{}'::real[]::tensor, '[5:6]={1,2}'::int[]::tensor, '{NaN,Infinity,1e-300}'::float8[]::tensor;
SELECT '[[1,2],[3,4]]'::tensor::real[], '[0.1]'::tensor::real[], '[0.1]'::tensor::float8[], '[[3,-4]]'::tensor::int[],
    '7'::tensor::real[], '[]'::tensor::float8[], '[NaN,inf]'::tensor::real[];
CREATE TABLE assigned (t tensor, r real[], f float8[]);
INSERT INTO assigned VALUES (ARRAY[1.0::real, 2], '[1,2]'::tensor, '[3]'::tensor), ('{1,2}'::float8[], NULL, NULL);
SELECT * FROM assigned;
DROP TABLE assigned;
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    'ARRAY[1, NULL]::tensor', 'ARRAY[1e300]::tensor', 'ARRAY[1e300::float8]::tensor', '''[1.5]''::tensor::int[]',
    '''[NaN]''::tensor::int[]', '''[2147483648]''::tensor::int[]', '''[[[[[[[1]]]]]]]''::tensor::real[]', '''{a}''::text[]::tensor']) q;

-- Numbers and scalars.
SELECT 3::tensor, 0.5::tensor, 2.5::real::tensor, 1e-60::float8::tensor, tensor(7), tensor('[1,2]');
SELECT '3.5'::tensor::real, '[[2]]'::tensor::float8, '4'::tensor::int, mean('[1,2]')::real + 1;
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    '''[1,2]''::tensor::real', '''[]''::tensor::float8', '3.5::tensor::int', '1e300::tensor', '1e39::float8::tensor']) q;

-- Raw bytes.
SELECT '[[1,2]]'::tensor::bytea, tensor('\x0000803f000000400000c07f0100807f'::bytea, ARRAY[2,2]), tensor('\x', '{0,5}'), tensor('\x0000803f', '{}');
SELECT q, refused('SELECT ' || q) FROM unnest(ARRAY[
    'tensor(''\x00'', ARRAY[1])', 'tensor(''\x'', ARRAY[1])', 'tensor(''\x'', ARRAY[-1])', 'tensor(''\x'', ARRAY[NULL]::int[])',
    'tensor(''\x'', ''{{0}}'')', 'tensor(''\x'', ARRAY[65536,65536])', 'tensor(''\x'', array_fill(2147483647, ARRAY[8]))',
    'tensor(''\x'', array_fill(1, ARRAY[9]))']) q;

-- Wire form: little-endian ndim, dimensions, elements.
SELECT tensor_send('[[1,-2]]'), tensor_send('3'), tensor_send('tensor(0,3) []');

DROP FUNCTION refused_text, refused;
DROP DOMAIN pair;
