-- The machine's peak rates, the reference for measurements.

CREATE FUNCTION llm_measure_peak(OUT threads int, OUT fma_gflops float8, OUT read_gb_s float8)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'llm_measure_peak_sql';
COMMENT ON FUNCTION llm_measure_peak() IS
    'The machine''s float32 multiply-add peak in GFLOP/s and its memory read bandwidth in GB/s, with the session''s '
    'threads and instruction set';

CREATE FUNCTION llm_measure_matmul(m int, k int, n int, repeats int DEFAULT 5, product text DEFAULT 'forward')
    RETURNS float8
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'llm_measure_matmul_sql';
COMMENT ON FUNCTION llm_measure_matmul(int, int, int, int, text) IS
    'GFLOP/s of (m,k) @ (k,n) with packed weights, or of its gradients dx (m,k) and dw (k,n) as training computes '
    'them: the best of this many repeats';

CREATE FUNCTION llm_matmul_rung(a tensor, b tensor, rung text) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_matmul_rung(tensor, tensor, text) IS
    '(m,k) @ (k,n) by a rung of the ladder of kernels: naive, blocked, packed, vector or threads; each adds in the '
    'same order, so all give the bits of @';

CREATE FUNCTION llm_kernel_ladder(m int DEFAULT 256, k int DEFAULT 768, n int DEFAULT 768, OUT step int,
    OUT rung text, OUT milliseconds float8, OUT gflops float8, OUT of_peak float8, OUT same_bits boolean,
    OUT idea text) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT ROWS 5 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_kernel_ladder(int, int, int) IS
    'A product (m,k) @ (k,n) of random numbers by each rung of the ladder, from three loops to all cores: its time, '
    'the fraction of the machine''s multiply-add peak, whether its result has the first rung''s bits, and what it '
    'does that the one before does not';

CREATE FUNCTION llm_memory(OUT pid int, OUT bytes bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_memory() IS
    'What each session uses of pg_llm.server_memory_limit, by the process id that pg_stat_activity names: a role '
    'sees its own sessions, members of pg_read_all_stats see all';
