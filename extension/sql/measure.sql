-- What the machine can do, to measure speed against.

CREATE FUNCTION llm_measure_peak(OUT threads int, OUT fma_gflops float8, OUT read_gb_s float8)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'llm_measure_peak_sql';
COMMENT ON FUNCTION llm_measure_peak() IS 'The machine''s float32 multiply-add peak in GFLOP/s and its memory read bandwidth in GB/s, with the session''s threads and instruction set';

CREATE FUNCTION llm_measure_matmul(m int, k int, n int, repeats int DEFAULT 5) RETURNS float8
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'llm_measure_matmul_sql';
COMMENT ON FUNCTION llm_measure_matmul(int, int, int, int) IS 'GFLOP/s of (m,k) @ (k,n) with packed weights, the best of so many repeats';
