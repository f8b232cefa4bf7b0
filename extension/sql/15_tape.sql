-- The tape: recorded operations as rows; the backward pass traverses them in reverse.
--
-- Ids are run * 1000000 + n with n from 1, one numbering for all tensors of a run in the order of their
-- creation; the id of an operation is that of its first result. So max(id) is the last operation of the
-- newest run.
-- The four tables are unlogged and excluded from dumps: their contents can be computed again, a crash empties
-- all of them together, and writing them must be cheaper than writing weights.

CREATE SEQUENCE llm_run_seq;
COMMENT ON SEQUENCE llm_run_seq IS 'Numbers of runs';

CREATE UNLOGGED TABLE llm_run (
    run     bigint PRIMARY KEY,
    key     int NOT NULL UNIQUE CHECK (key <> 0),
    model   text COLLATE "C",
    kind    text COLLATE "C" NOT NULL CHECK (kind IN ('trace', 'loss', 'logits', 'eval', 'expression')),
    seed    bigint,
    tokens  int[],
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    who     name NOT NULL DEFAULT session_user,
    pid     int NOT NULL DEFAULT pg_backend_pid(),
    open    boolean NOT NULL
);
CREATE INDEX ON llm_run (pid) WHERE open;
COMMENT ON TABLE llm_run IS
    'One recorded run: the model and tokens it began with, who, when; unlogged and not dumped, like its tape';
COMMENT ON COLUMN llm_run.key IS
    'A random number that the values of this run carry: a value with another key is a constant';
COMMENT ON COLUMN llm_run.open IS
    'Whether session pid is still recording into it; it stays true if the session ended, switched recording off by '
    'SET, or ended the run by an error about a leaf';

CREATE UNLOGGED TABLE llm_tape (
    id      bigint PRIMARY KEY,
    run     bigint NOT NULL REFERENCES llm_run ON DELETE CASCADE,
    op      text COLLATE "C" NOT NULL,
    node    text COLLATE "C",
    inputs  bigint[] NOT NULL,
    outputs bigint[] NOT NULL,
    extra   jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ON llm_tape (run);
COMMENT ON TABLE llm_tape IS
    'An executed operation: its row in llm_op, the graph node that it computed, ids of the tensors read and made; '
    'unlogged and not dumped';
COMMENT ON COLUMN llm_tape.id IS 'run * 1000000 + n; also the id of the first tensor that it created';
COMMENT ON COLUMN llm_tape.extra IS
    'attrs: as in llm_graph; flops, bytes, microseconds; for attention also model and tokens: the model whose tokens '
    'it reads, and their id';

CREATE UNLOGGED TABLE llm_tensor_rt (
    id            bigint PRIMARY KEY,
    run           bigint NOT NULL REFERENCES llm_run ON DELETE CASCADE,
    name          text COLLATE "C",
    shape         int[] NOT NULL,
    data          tensor,
    grad          tensor,
    requires_grad boolean NOT NULL
);
CREATE INDEX ON llm_tensor_rt (run, name);
COMMENT ON TABLE llm_tensor_rt IS
    'A tensor of a run: a leaf, a constant or a result, and its gradient after llm_backprop or llm_backward; '
    'unlogged and not dumped';
COMMENT ON COLUMN llm_tensor_rt.data IS 'NULL where llm_tensor_map says which parameter of llm_param it is';
COMMENT ON COLUMN llm_tensor_rt.grad IS
    'The gradient of the scalar of the last backward pass; for a mapped leaf the sum since the last '
    'llm_accumulate_grads';
COMMENT ON COLUMN llm_tensor_rt.requires_grad IS 'Whether it depends on a leaf to differentiate by';

CREATE UNLOGGED TABLE llm_tensor_map (
    id          bigint PRIMARY KEY,
    run         bigint NOT NULL REFERENCES llm_run ON DELETE CASCADE,
    model       text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    token_id    int,
    accumulated boolean NOT NULL DEFAULT false,
    version     bigint
);
CREATE INDEX ON llm_tensor_map (run);
COMMENT ON TABLE llm_tensor_map IS
    'Which parameter of llm_param the tensor id is, or which row of it; unlogged and not dumped';
COMMENT ON COLUMN llm_tensor_map.accumulated IS
    'false: its gradient, if it has one, waits for llm_accumulate_grads to add it to llm_param.grad';
COMMENT ON COLUMN llm_tensor_map.version IS
    'Distinguishes the value that the parameter had from later ones (_llm_tensor_version)';

-- ---- recording ----

CREATE FUNCTION _llm_autograd() RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_autograd';
COMMENT ON FUNCTION _llm_autograd() IS 'Whether operations on tensors are recorded: the setting pg_llm.autograd';

CREATE VIEW llm_autograd_mode WITH (security_invoker = true) AS SELECT _llm_autograd() AS flag;
COMMENT ON VIEW llm_autograd_mode IS
    'One row, the switch of this session: UPDATE llm_autograd_mode SET flag = true records what follows; SET '
    'pg_llm.autograd does the same';
COMMENT ON COLUMN llm_autograd_mode.flag IS
    'true: operations on tensors are recorded; INSERT sets it too, DELETE switches off';

CREATE FUNCTION _llm_set_autograd_mode() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'llm_set_autograd_mode';
COMMENT ON FUNCTION _llm_set_autograd_mode() IS
    'Trigger: sets pg_llm.autograd; switching off closes the session''s run';
CREATE TRIGGER llm_set_autograd_mode INSTEAD OF INSERT OR UPDATE OR DELETE ON llm_autograd_mode
    FOR EACH ROW EXECUTE FUNCTION _llm_set_autograd_mode();
COMMENT ON TRIGGER llm_set_autograd_mode ON llm_autograd_mode IS
    'Writing the row sets pg_llm.autograd for the session';
-- An update only changes a setting that every role may set.
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_autograd_mode TO PUBLIC;

CREATE FUNCTION llm_open_run() RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_open_run() IS 'The run that this session is recording into; NULL where there is none';

CREATE FUNCTION llm_var(t tensor, name text) RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_var(tensor, text) IS
    'The tensor itself as a leaf to differentiate by; the same name in one run is the same leaf; with autograd off '
    'it does nothing';

CREATE FUNCTION llm_trace(model text, tokens int[], targets int[] DEFAULT NULL, positions int[] DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_trace(text, int[], int[], int[]) IS
    'Runs a model up to the logits, with targets up to the loss that training minimises, and keeps every tensor in '
    'llm_tape and llm_tensor_rt; returns the run';

CREATE FUNCTION _llm_tensor_version(t tensor) RETURNS bigint
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_tensor_version';
COMMENT ON FUNCTION _llm_tensor_version(tensor) IS
    'A number that distinguishes a stored value from others without reading it: the location of its bytes, or a hash '
    'if it is small';

CREATE FUNCTION llm_materialize_params(model text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_materialize_params(text) IS
    'Makes each parameter of a model a leaf of the session''s run, which llm_tensor then shows; returns how many';

CREATE FUNCTION pg_llm_autograd_map_param(model text, name text, token_id int, tensor tensor, dims int[] DEFAULT NULL)
    RETURNS tensor
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION pg_llm_autograd_map_param(text, text, int, tensor, int[]) IS
    'The tensor, in shape dims, as a leaf whose gradient belongs to a parameter of a model, or to row token_id of it';

CREATE FUNCTION _llm_on_tape(t tensor, id bigint) RETURNS tensor
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'llm_on_tape';
COMMENT ON FUNCTION _llm_on_tape(tensor, bigint) IS
    'The tensor as the one that the session''s open run knows by this id';

CREATE VIEW llm_tensor WITH (security_invoker = true) AS
    SELECT m.name, m.model, _llm_on_tape(CASE WHEN r.data IS NULL THEN p.data ELSE r.data END, m.id) AS data,
        m.token_id, m.id
    FROM llm_tensor_map AS m
    JOIN llm_tensor_rt AS r USING (id)
    LEFT JOIN llm_param_share AS s ON r.data IS NULL AND s.target_model = m.model AND s.target_name = m.name
    LEFT JOIN llm_param AS p ON r.data IS NULL AND p.model = coalesce(s.source_model, m.model)
        AND p.name = coalesce(s.source_name, m.name)
    WHERE m.run = (SELECT llm_open_run());
COMMENT ON VIEW llm_tensor IS
    'The parameters that the session materialised, by name; what is computed from data is recorded, back to '
    'llm_param';

-- ---- gradients ----

CREATE FUNCTION llm_backward(loss tensor, OUT name text, OUT grad tensor) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_backward(tensor) IS
    'Gradients of a recorded scalar with respect to every named leaf that it depends on, returned, not accumulated; '
    'closes the run';

CREATE FUNCTION llm_backprop(tape_id bigint, model text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_backprop(bigint, text) IS
    'Runs the backward pass from the scalar that operation tape_id computed to the model''s parameters and writes '
    'llm_tensor_rt.grad; returns the number of tensors that have one';

CREATE FUNCTION _llm_add_gradient(grad tensor, shape int[], more tensor, token_id int) RETURNS tensor
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_add_gradient';
COMMENT ON FUNCTION _llm_add_gradient(tensor, int[], tensor, int) IS
    'grad + more, or more added to row token_id; a NULL grad is zeros of the shape; never recorded';

CREATE FUNCTION llm_accumulate_grads(model text, workers int DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    threads text := coalesce(current_setting('pg_llm.threads', true), '0'); -- NULL until the library is loaded
    item record;
    n bigint := 0;
BEGIN
    IF model IS NULL OR NOT EXISTS (SELECT FROM @extschema@.llm_model_config AS c WHERE c.model = model) THEN
        RAISE EXCEPTION 'there is no model "%"', coalesce(left(model, 100), 'NULL') USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model FROM llm_model_config lists the models.';
    ELSIF workers < 1 OR workers > 1024 THEN
        RAISE EXCEPTION 'workers is %; it must be from 1 to 1024', workers USING ERRCODE = 'invalid_parameter_value',
            HINT = 'NULL uses as many threads as pg_llm.threads says.';
    END IF;
    PERFORM set_config('pg_llm.threads', coalesce(workers::text, threads), false);
    FOR item IN
        SELECT m.id, coalesce(s.source_model, m.model) AS model, coalesce(s.source_name, m.name) AS name, m.token_id,
            r.grad
        FROM @extschema@.llm_tensor_map AS m
        JOIN @extschema@.llm_run AS run USING (run)
        JOIN @extschema@.llm_tensor_rt AS r ON r.id = m.id
        LEFT JOIN @extschema@.llm_param_share AS s ON s.target_model = m.model AND s.target_name = m.name
        WHERE m.model = model AND NOT m.accumulated AND r.grad IS NOT NULL
            AND @extschema@._llm_own_run(run.pid, run.started)
        ORDER BY m.id FOR KEY SHARE OF run
    LOOP
        UPDATE @extschema@.llm_param AS p
            SET grad = @extschema@._llm_add_gradient(p.grad, @extschema@.shape(p.data), item.grad, item.token_id)
            WHERE p.model = item.model AND p.name = item.name;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'model "%" has no parameter "%" for the gradient of tensor %', item.model, item.name,
                item.id USING ERRCODE = 'undefined_object',
                HINT = 'SELECT name FROM llm_param WHERE model = ... lists those it has.';
        END IF;
        UPDATE @extschema@.llm_tensor_map AS m SET accumulated = true WHERE m.id = item.id;
        n := n + 1;
    END LOOP;
    -- so that a later llm_backprop from the same scalar counts again
    UPDATE @extschema@.llm_tape AS t SET extra = extra - 'backprop' FROM @extschema@.llm_run AS run
        WHERE n > 0 AND t.run = run.run AND @extschema@._llm_own_run(run.pid, run.started) AND extra ? 'backprop'
        AND NOT EXISTS (SELECT FROM @extschema@.llm_tensor_map AS m JOIN @extschema@.llm_tensor_rt AS r ON r.id = m.id
            WHERE m.run = run.run AND NOT m.accumulated AND r.grad IS NOT NULL);
    PERFORM set_config('pg_llm.threads', threads, false);
    IF n = 0 THEN
        RAISE NOTICE 'no gradient of model "%" is waiting', model
            USING HINT = 'llm_backprop(tape id, model) computes them; each is added once.';
    END IF;
    RETURN n;
END $$;
COMMENT ON FUNCTION llm_accumulate_grads(text, int) IS
    'Adds the gradients that this session''s runs computed to llm_param.grad, in the order of their ids, of a shared '
    'parameter to its source; returns how many';

CREATE FUNCTION _llm_own_run(pid int, started timestamptz) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'llm_own_run';
COMMENT ON FUNCTION _llm_own_run(int, timestamptz) IS 'Whether a run of that process and time is this session''s';

CREATE FUNCTION llm_prune_autograd_state(workers int DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    IF workers < 1 OR workers > 1024 THEN
        RAISE EXCEPTION 'workers is %; it must be from 1 to 1024', workers USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave it out: deleting rows uses one thread.';
    END IF;
    -- A session that works on a run locks its row: neither session waits for the other while it holds rows of
    -- the tape.
    DELETE FROM @extschema@.llm_run AS d WHERE d.run IN (SELECT r.run FROM @extschema@.llm_run AS r
        WHERE r.who = session_user AND r.run IS DISTINCT FROM @extschema@.llm_open_run()
        AND NOT (r.open AND NOT @extschema@._llm_own_run(r.pid, r.started)
            AND EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = r.pid AND a.backend_start <= r.started))
        ORDER BY r.run FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
COMMENT ON FUNCTION llm_prune_autograd_state(int) IS
    'Removes the runs of the session''s role with their tapes, except those that a session is recording or using; '
    'returns how many';
