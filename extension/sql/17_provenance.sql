-- Provenance: from the rows of a dataset to the change of a weight, and back.

CREATE FUNCTION _llm_provenance_parts(model text, from_checkpoint bigint, log_ids bigint[], parameter text,
    element int[], first_step bigint, is_stored boolean, stored real)
    RETURNS TABLE (step bigint, part text, place int, row_id bigint, gradient float8, change float8, total float8,
        before real, after real, lr float8, clip float8)
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'llm_provenance_parts';
COMMENT ON FUNCTION _llm_provenance_parts(text, bigint, bigint[], text, int[], bigint, boolean, real) IS
    'Computes these steps of llm_train_log again from a checkpoint, in memory, and splits the changes of an element '
    'from first_step on; is_stored: an error unless its last value is stored';

CREATE FUNCTION _llm_provenance_plan(model text, last_steps bigint, to_step bigint, from_checkpoint bigint,
    OUT checkpoint bigint, OUT first_step bigint, OUT last_step bigint, OUT log_ids bigint[], OUT is_stored boolean)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    newest @extschema@.llm_train_log;
    at bigint;
    saved @extschema@.llm_checkpoint;
BEGIN
    IF last_steps IS NULL OR last_steps < 1 THEN
        RAISE EXCEPTION 'last_steps is %, expected 1 or more', coalesce(last_steps::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM @extschema@.llm_get_model_config(model);
    PERFORM @extschema@._llm_export_check(model);
    SELECT log.* INTO newest FROM @extschema@.llm_train_log AS log
        WHERE log.model = model AND (to_step IS NULL OR log.step = to_step) ORDER BY log.id DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'llm_train_log has no step%of model "%"', coalesce(' ' || to_step || ' ', ' '), model
            USING ERRCODE = '02000',
            HINT = 'llm_train logs each step; weights that were imported have no history here.';
    END IF;
    last_step := newest.step;
    SELECT f.step INTO at FROM @extschema@._llm_checkpoint_facts(model) AS f;
    is_stored := at = last_step AND newest.id = (SELECT max(log.id) FROM @extschema@.llm_train_log AS log
        WHERE log.model = model);
    IF to_step IS NULL AND at <> last_step THEN
        RAISE EXCEPTION 'model "%" is at step %, and the newest row of its log is of step %', model, at, last_step
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('A checkpoint was loaded, or the log changed; to_step => %s looks at what is logged.',
                last_step);
    END IF;
    IF from_checkpoint IS NOT NULL THEN
        saved := @extschema@._llm_checkpoint_get(from_checkpoint);
    ELSE
        -- A checkpoint leads to this row of the log if the path back from it passes the checkpoint's step: a model
        -- that was set back has several rows for a step, of which only one is on the path.
        WITH RECURSIVE mine AS (
            SELECT c.* FROM @extschema@.llm_checkpoint AS c WHERE c.model = model AND c.step < last_step
        ), path AS (
            SELECT newest.id AS id, newest.step AS step
            UNION ALL
            SELECT before.id, before.step FROM path, LATERAL (
                SELECT log.id, log.step FROM @extschema@.llm_train_log AS log
                WHERE log.model = model AND log.step = path.step - 1 AND log.id < path.id
                ORDER BY log.id DESC LIMIT 1) AS before
            WHERE path.step > (SELECT min(m.step) FROM mine AS m)
        )
        SELECT mine.* INTO saved FROM mine JOIN path AS next ON next.step = mine.step + 1
            LEFT JOIN path AS own ON own.step = mine.step
            WHERE next.id > coalesce(mine.log_id, 0) AND coalesce(own.id, 0) <= coalesce(mine.log_id, 0)
            ORDER BY mine.step > last_step - last_steps, abs(mine.step - (last_step - last_steps)), mine.id DESC
            LIMIT 1;
        IF saved.id IS NULL THEN
            RAISE EXCEPTION 'no checkpoint of model "%" leads to step %', model, last_step USING ERRCODE = '02000',
                HINT = 'Steps are computed again from a checkpoint: llm_checkpoint_save before training makes one.';
        END IF;
    END IF;
    checkpoint := saved.id;
    log_ids := @extschema@._llm_replay_chain(model, checkpoint, last_step);
    PERFORM @extschema@._llm_checkpoint_check(model, checkpoint);
    first_step := greatest(last_step - last_steps, saved.step) + 1;
    IF saved.step > 0 AND saved.step > last_step - last_steps AND from_checkpoint IS NULL THEN
        RAISE NOTICE 'the last % steps alone can be computed: the first checkpoint on the way to step % is of step %',
            last_step - saved.step, last_step, saved.step;
    END IF;
END $$;
COMMENT ON FUNCTION _llm_provenance_plan(text, bigint, bigint, bigint) IS
    'From which checkpoint, by which rows of llm_train_log, the last steps up to to_step (NULL: the newest logged) are '
    'computed again, and whether the model is what they lead to';

CREATE FUNCTION llm_provenance(model text, parameter text, element int[], last_steps bigint DEFAULT 1,
    to_step bigint DEFAULT NULL, from_checkpoint bigint DEFAULT NULL)
    RETURNS TABLE (step bigint, part text, place int, row_id bigint, gradient float8, change float8, total float8,
        before real, after real, lr float8, clip float8)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    plan record;
    stored real;
BEGIN
    IF model IS NULL OR parameter IS NULL OR element IS NULL THEN
        RAISE EXCEPTION 'model, parameter and element must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT p.* INTO plan FROM @extschema@._llm_provenance_plan(model, last_steps, to_step, from_checkpoint) AS p;
    BEGIN
        SELECT @extschema@.tensor_get(p.data, VARIADIC element) INTO stored
            FROM @extschema@._llm_export_rows(model) AS r
            JOIN @extschema@.llm_param AS p ON p.model = r.owner_model AND p.name = r.owner_name
            WHERE r.name = parameter;
    EXCEPTION WHEN array_subscript_error OR invalid_parameter_value THEN
        NULL; -- the function below says what the shape is
    END;
    RETURN QUERY SELECT parts.* FROM @extschema@._llm_provenance_parts(model, plan.checkpoint, plan.log_ids,
        parameter, element, plan.first_step, plan.is_stored, coalesce(stored, 0)) AS parts;
END $$;
COMMENT ON FUNCTION llm_provenance(text, text, int[], bigint, bigint, bigint) IS
    'How the last steps of a model''s training, up to to_step (NULL: the newest), changed one element of a parameter '
    '(one index for each axis, from 0), split into parts: for each row of llm_dataset that the step read (at this '
    'place, from 1) what its gradient made, what the momentum of earlier steps made, what weight decay made, and the '
    'rest, which is rounding. gradient: what the row adds to the step''s gradient before clipping. The changes of a '
    'step add up to after - before. total: the part''s effect up to the last step, with the momentum that it leaves '
    'to later ones; all totals add up to the whole change. lr: the learning rate; clip: what clipping multiplied the '
    'gradient by. Steps are computed again in memory from from_checkpoint, by default the nearest one; nothing is '
    'changed. An error if rows, log, graph or weights are not what they were in training';

CREATE FUNCTION llm_influence(model text, parameter text, element int[], last_steps bigint DEFAULT 100,
    to_step bigint DEFAULT NULL, from_checkpoint bigint DEFAULT NULL)
    RETURNS TABLE (rank bigint, part text, row_id bigint, dataset text, steps bigint, change float8, share float8)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN p.row_id IS NOT NULL THEN row_number() OVER (ORDER BY p.row_id IS NULL, abs(p.change) DESC,
            p.row_id) END, p.part, p.row_id, d.dataset, p.steps, p.change,
        abs(p.change) / nullif(sum(abs(p.change)) OVER (), 0)
    FROM (SELECT part, row_id, count(DISTINCT step) AS steps, sum(total) AS change
        FROM @extschema@.llm_provenance(model, parameter, element, last_steps, to_step, from_checkpoint)
        WHERE total IS NOT NULL GROUP BY part, row_id) AS p
    LEFT JOIN @extschema@.llm_dataset AS d ON d.id = p.row_id
    ORDER BY p.row_id IS NULL, abs(p.change) DESC, p.row_id, p.part
$$;
COMMENT ON FUNCTION llm_influence(text, text, int[], bigint, bigint, bigint) IS
    'Which rows of llm_dataset changed one element of a parameter most in the last steps of training, the largest '
    'change first: the totals of llm_provenance by row. steps: in how many of the steps the row was read; share: of '
    'the sum of all absolute changes. Rows without row_id are what no row of these steps made: the momentum that the '
    'first step began with, weight decay, and rounding (rest). The changes add up to that of the element';
