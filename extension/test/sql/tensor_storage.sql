-- Large values: partial reads, memory limit, cancelling.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_llm CASCADE; -- nothing of the files before
CREATE EXTENSION pg_llm;
RESET client_min_messages;
CREATE TABLE stored (id int, t tensor);
INSERT INTO stored VALUES (1, randn(ARRAY[2000,256], 1)), (2, randn(ARRAY[2000,256], 2));
SELECT attstorage FROM pg_attribute WHERE attrelid = 'stored'::regclass AND attname = 't';

-- Blocks of TOAST, of which a value of 2 MB has about 260, that a query touches.
CREATE TABLE touched (query text, blocks bigint, step serial);
CREATE FUNCTION note(query text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_stat_clear_snapshot();
    INSERT INTO touched SELECT query, toast_blks_read + toast_blks_hit FROM pg_statio_all_tables WHERE relid = 'stored'::regclass;
$$;
\o /dev/null
SELECT pg_stat_force_next_flush();
SELECT note('start');
SELECT pg_stat_force_next_flush(), shape(t), ndim(t), numel(t) FROM stored WHERE id = 1;
SELECT note($$ shape(t), ndim(t), numel(t) $$);
SELECT pg_stat_force_next_flush(), tensor_get(t, 1000, 3) FROM stored WHERE id = 1;
SELECT note($$ tensor_get(t, 1000, 3) $$);
SELECT pg_stat_force_next_flush(), slice(t, 1000, 1001) FROM stored WHERE id = 1;
SELECT note($$ slice(t, 1000, 1001) $$);
SELECT pg_stat_force_next_flush(), slice(t, ARRAY[-1,5], ARRAY[2000,6]) FROM stored WHERE id = 1;
SELECT note($$ slice(t, ARRAY[-1,5], ARRAY[2000,6]) $$);
SELECT pg_stat_force_next_flush(), pg_llm_embedding(ARRAY[7,1999], t) FROM stored WHERE id = 1;
SELECT note($$ pg_llm_embedding(ARRAY[7,1999], t) $$);
SELECT pg_stat_force_next_flush(), pg_llm_zeros_like(t) FROM stored WHERE id = 1;
SELECT note($$ pg_llm_zeros_like(t) $$);
SELECT pg_stat_force_next_flush(), shape(t::tensor(2000,256)) FROM stored WHERE id = 1;
SELECT note($$ shape(t::tensor(2000,256)) $$);
SELECT pg_stat_force_next_flush(), t = slice(t, 0, 1) FROM stored WHERE id = 1;
SELECT note($$ t = slice(t, 0, 1) $$);
SELECT pg_stat_force_next_flush(), mean(t) FROM stored WHERE id = 1;
SELECT note($$ mean(t) $$);
\o
SELECT query, CASE WHEN blocks - before < 60 THEN 'a few' ELSE 'all' END AS blocks
    FROM (SELECT *, lag(blocks) OVER (ORDER BY step) AS before FROM touched) t WHERE before IS NOT NULL ORDER BY step;
DROP FUNCTION note;
DROP TABLE touched;

-- Partial reads return the right elements.
SELECT bool_and(slice(t, i, i + 3) = slice(t + 0, i, i + 3)), bool_and(tensor_get(t, i, 5) = tensor_get(t + 0, i, 5)),
    bool_and(pg_llm_embedding(ARRAY[i, 3], t) = pg_llm_embedding(ARRAY[i, 3], t + 0)), bool_and(slice(t, ARRAY[i, 2], ARRAY[i + 2, -1]) = slice(t + 0, ARRAY[i, 2], ARRAY[i + 2, -1]))
    FROM stored, unnest(ARRAY[0, 1, 999, 1997]) i;
ALTER TABLE stored ALTER COLUMN t SET STORAGE EXTENDED;
INSERT INTO stored SELECT 3, zeros(ARRAY[2000,256]);
SELECT shape(t), slice(t, 1999, 2000) = zeros(ARRAY[1,256]), numel(t) FROM stored WHERE id = 3;
CREATE TABLE small (t tensor);
INSERT INTO small VALUES ('3'), ('[1,2]'), ('[]'), (ones(ARRAY[10,10]));
SELECT shape(t), tensor_sum(t), slice(reshape(t, ARRAY[-1,1]), -1) FROM small WHERE numel(t) > 0;

-- The memory limit applies to every result; the session continues.
SET pg_llm.memory_limit = '32MB';
DO $$
DECLARE q text;
BEGIN
    FOREACH q IN ARRAY ARRAY['zeros(ARRAY[10000,10000])', 'concat(array_fill(ones(ARRAY[1000000]), ARRAY[20]))', 'ones(ARRAY[10000,1]) + ones(ARRAY[1,10000])',
        'ones(ARRAY[10000,1]) @ ones(ARRAY[1,10000])', 'stack(ones(ARRAY[100000])) FROM generate_series(1, 1000)', 'tensor(repeat(''abcd'', 9000000)::bytea, ARRAY[9000000])',
        'pg_llm_matmul(repeat(''abcd'', 10000)::bytea, repeat(''abcd'', 10000)::bytea, 10000, 1, 10000)', 'ones(ARRAY[3000000])::text', 'ones(ARRAY[3000000])::float8[]'] LOOP
        BEGIN
            EXECUTE 'SELECT ' || q;
            RAISE NOTICE 'not refused: %', q;
        EXCEPTION WHEN OTHERS THEN
            RAISE NOTICE '% %', SQLSTATE, q;
        END;
    END LOOP;
END $$;
SELECT shape(ones(ARRAY[1000,1000]) @ ones(ARRAY[1000,1000]));
RESET pg_llm.memory_limit;

-- A timeout ends a product, a broadcast, text and random numbers that would take much longer.
INSERT INTO stored VALUES (4, ones(ARRAY[4000,4000]));
SET statement_timeout = '100ms';
SELECT shape(((t @ t) @ t) @ t) FROM stored WHERE id = 4;
SELECT shape(((ones(ARRAY[100000000]) + 1) * 2) / 3);
SELECT length(t::text || (t + 1)::text) FROM stored WHERE id = 4;
SELECT shape(randn(ARRAY[200000000], 1));
RESET statement_timeout;
SELECT tensor_sum('[1,2,3]');
DROP TABLE stored, small;
