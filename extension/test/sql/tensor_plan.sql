-- Declared shapes are checked when a query is planned, before a row is read.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
CREATE FUNCTION refused(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text;
BEGIN
    EXECUTE query;
    RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
    RETURN SQLSTATE || ' ' || message;
END $$;
CREATE TABLE layer (id int, x tensor(4,3), y tensor(4,2), w tensor(3,2), b tensor(2), g tensor(3), any_shape tensor);

SELECT q, refused('EXPLAIN SELECT ' || q || ' FROM layer') FROM unnest(ARRAY[
    'x @ y', 'x + y', 'x @ w + b', '(x @ w) + g', '((x @ w) + b) @ x', 'transpose(x) @ w', 'relu(-x) @ x', '2 * x @ y', 'x @ ''[[1,2]]''',
    'pg_llm_matmul(x, y)', 'pg_llm_add(x, y)', 'pg_llm_layernorm(x, b, b)', 'pg_llm_gelu(x @ w) @ x', 'exp(x) / y', 'pg_llm_softmax(x) @ x',
    'pg_llm_attention(x, w, b, w, b, 1)', 'CASE WHEN false THEN x @ y END', 'CASE WHEN id > 0 THEN x @ y END']) q;
SELECT q, refused('EXPLAIN SELECT ' || q || ' FROM layer') FROM unnest(ARRAY[
    '(x @ w) + b', 'transpose(x) @ y', 'x @ any_shape', 'any_shape + y', 'x @ NULL', 'x + NULL::tensor', 'transpose(x, ARRAY[1,0]) @ y', 'pg_llm_layernorm(x, g, g)',
    'x + 1', 'x * id', 'sum(x) @ sum(y)', 'COALESCE(x, y) @ w', 'reshape(x, ARRAY[2,6]) @ y', 'slice(x, 0, 1) @ y']) q;
EXPLAIN (VERBOSE, COSTS OFF) SELECT (x @ w) + b, relu(transpose(x) @ y), 2 * -x, pg_llm_gelu(any_shape + 1) FROM layer;

-- Outer joins, NULLs, domains, subqueries, prepared statements and functions run as they would without the check.
INSERT INTO layer (id, x, w, b, any_shape) VALUES (1, ones(ARRAY[4,3]), ones(ARRAY[3,2]), '[1,2]', '[[1,2]]'), (2, NULL, NULL, NULL, '[1]');
SELECT a.id, (a.x @ b.w) + b.b FROM layer a LEFT JOIN layer b ON b.id = a.id AND b.id = 1 ORDER BY 1;
SELECT id, s.p + any_shape FROM (SELECT id, x @ w AS p, any_shape FROM layer) s ORDER BY 1;
PREPARE product(tensor) AS SELECT x @ $1 FROM layer WHERE id = 1;
EXECUTE product('[[1],[2],[3]]');
EXECUTE product(NULL);
EXECUTE product('[1,2]');
CREATE DOMAIN weights AS tensor(3,2);
SELECT x @ (w::weights) FROM layer WHERE id = 1;
CREATE FUNCTION affine(x tensor, w tensor, b tensor) RETURNS tensor LANGUAGE sql AS $$ SELECT (x @ w) + b $$;
SELECT affine(x, w, b) FROM layer WHERE id = 1;
SELECT affine(x, y, b) FROM layer WHERE id = 1;
CREATE VIEW products AS SELECT id, (x @ w) + b AS p FROM layer;
SELECT p FROM products WHERE id = 1;
SELECT refused($$ SELECT p @ x FROM products p, layer $$);
CREATE TABLE result (p tensor(4,2));
INSERT INTO result SELECT p FROM products;
SELECT count(*), count(p) FROM result;
-- a table without rows, whose shape changes
CREATE TABLE empty_table (t tensor(2,2));
ALTER TABLE empty_table ALTER COLUMN t TYPE tensor(3);
ALTER TABLE empty_table ALTER COLUMN t TYPE tensor(2) USING t + 1;
ALTER TABLE empty_table ALTER COLUMN t TYPE tensor(2) USING slice(t, 0, 2);

DROP VIEW products;
DROP TABLE layer, result, empty_table;
DROP FUNCTION affine, refused;
DROP DOMAIN weights;
