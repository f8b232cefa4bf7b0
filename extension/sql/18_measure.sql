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

CREATE FUNCTION _llm_progress_reports(OUT pid int, OUT database oid, OUT kind text, OUT model text, OUT phase text,
    OUT step bigint, OUT steps bigint, OUT unit text, OUT tokens_per_second float8, OUT started timestamptz,
    OUT eta timestamptz) RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'llm_progress_reports';
COMMENT ON FUNCTION _llm_progress_reports() IS 'What llm_progress joins with pg_stat_activity';

CREATE VIEW llm_progress WITH (security_invoker = true) AS
    SELECT p.pid, d.datname, a.usename, a.application_name, p.kind, p.model, p.phase, p.step, p.steps, p.unit,
        p.tokens_per_second, p.started, p.eta
    FROM @extschema@._llm_progress_reports() AS p
    LEFT JOIN pg_catalog.pg_database AS d ON d.oid = p.database
    LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = p.pid;
GRANT SELECT ON llm_progress TO PUBLIC;
COMMENT ON VIEW llm_progress IS
    'Work that a session does now, in any database of the server, with its steps and its estimated end; of sessions of '
    'other roles all from kind on is NULL, unless the reader is a member of the role or of pg_read_all_stats';
COMMENT ON COLUMN llm_progress.kind IS
    'train, replay, import, export, checkpoint save, checkpoint load, train tokenizer, quantize, generate or '
    'load data. Of more than 128 at one time, the others are not shown';
COMMENT ON COLUMN llm_progress.model IS
    'The model, or the dataset where the kind is load data; cut after 63 bytes';
COMMENT ON COLUMN llm_progress.phase IS
    'waiting (for locks of other sessions), loading, computing or writing';
COMMENT ON COLUMN llm_progress.step IS 'Steps made; of a training, those of its run';
COMMENT ON COLUMN llm_progress.steps IS 'Steps in all; NULL where it is not known in advance';
COMMENT ON COLUMN llm_progress.unit IS 'What a step is: a training''s step, a tensor, token, merge, row or document';
COMMENT ON COLUMN llm_progress.tokens_per_second IS
    'Tokens processed per second since the first step of the call; NULL where tokens are not counted';
COMMENT ON COLUMN llm_progress.started IS 'When the call began';
COMMENT ON COLUMN llm_progress.eta IS
    'When the last step will be made if each takes as long as those before; NULL before the first';

CREATE FUNCTION _llm_progress_begin(kind text, model text, unit text, steps bigint, transaction boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'llm_progress_begin';
COMMENT ON FUNCTION _llm_progress_begin(text, text, text, bigint, boolean) IS
    'Shows this session in llm_progress until the statement or the transaction ends, in the place of what this '
    'function began before';

CREATE FUNCTION _llm_progress_step(kind text) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'llm_progress_step';
COMMENT ON FUNCTION _llm_progress_step(text) IS
    'Counts a step of what _llm_progress_begin has begun, if it is of this kind; true';

CREATE FUNCTION _llm_progress_end() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'llm_progress_end';
COMMENT ON FUNCTION _llm_progress_end() IS 'Ends what _llm_progress_begin has begun';
