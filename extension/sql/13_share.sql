-- Parameters stored with another model; resetting gradients and optimizer state.

CREATE FUNCTION _llm_check_share() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other @extschema@.llm_param_share;
BEGIN
    SELECT s.* INTO other FROM @extschema@.llm_param_share AS s
        WHERE (s.target_model, s.target_name) = (NEW.source_model, NEW.source_name)
            OR (s.source_model, s.source_name) = (NEW.target_model, NEW.target_name) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'parameter "%" of model "%" cannot be stored in "%" of "%": '
            '"%" of "%" is stored in "%" of "%" already',
            NEW.target_name, NEW.target_model, NEW.source_name, NEW.source_model, other.target_name, other.target_model,
            other.source_name, other.source_model USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A source has values of its own. llm_share_param follows such chains to their source.';
    END IF;
    -- A change of the source also raises the version of the target, so a role must not attach its models to
    -- another role's.
    IF row_security_active('@extschema@.llm_param') THEN
        PERFORM FROM @extschema@.llm_param AS p WHERE (p.model, p.name) = (NEW.source_model, NEW.source_name)
            FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'role "%" may not change parameter "%" of model "%", so it cannot share it', current_user,
                NEW.source_name, NEW.source_model USING ERRCODE = 'insufficient_privilege';
        END IF;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _llm_check_share() IS
    'Constraint trigger: refuses a shared parameter whose source is itself shared, or may not be changed by this '
    'role';
REVOKE EXECUTE ON FUNCTION _llm_check_share() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER llm_share_is_flat AFTER INSERT OR UPDATE ON llm_param_share
    DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION _llm_check_share();
-- Not ENABLE ALWAYS: a subscriber applies row by row what the publisher checked as a whole.
COMMENT ON TRIGGER llm_share_is_flat ON llm_param_share IS
    'A source is never a target: one step leads to the stored values';

CREATE FUNCTION _llm_param_shape(model text, name text) RETURNS int[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    found int[];
BEGIN
    SELECT s.shape INTO found FROM @extschema@.llm_param_shapes(model) AS s WHERE s.name = name;
    IF found IS NULL THEN
        RAISE EXCEPTION 'model "%" has no parameter "%"', left(model, 100), left(name, 100)
            USING ERRCODE = 'undefined_object',
            HINT = format('SELECT name, shape FROM llm_param_shapes(%L) lists them.', left(model, 100));
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION _llm_param_shape(text, text) IS
    'The shape that a model''s graph gives a parameter; an error if it has none of that name';

CREATE FUNCTION llm_share_param(source_model text, source_name text, target_model text, target_name text) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    root_model text := source_model;
    root_name text := source_name;
    wants int[];
    holds int[];
BEGIN
    IF source_model IS NULL OR source_name IS NULL OR target_model IS NULL OR target_name IS NULL THEN
        RAISE EXCEPTION 'source_model, source_name, target_model and target_name must not be NULL'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM @extschema@.llm_train_lock(target_model);
    SELECT s.source_model, s.source_name INTO root_model, root_name FROM @extschema@.llm_param_share AS s
        WHERE (s.target_model, s.target_name) = (source_model, source_name);
    IF NOT FOUND THEN
        root_model := source_model;
        root_name := source_name;
    END IF;
    IF (root_model, root_name) = (target_model, target_name) THEN
        RAISE EXCEPTION 'parameter "%" of model "%" cannot be stored in itself%', target_name, target_model,
            CASE WHEN (root_model, root_name) <> (source_model, source_name)
                THEN format(': "%s" of "%s" is stored in it', source_name, source_model) ELSE '' END
            USING ERRCODE = 'invalid_parameter_value', HINT = 'llm_unshare_param gives a parameter values of its own.';
    END IF;
    wants := @extschema@._llm_param_shape(target_model, target_name);
    SELECT @extschema@.shape(p.data) INTO holds FROM @extschema@.llm_param AS p
        WHERE (p.model, p.name) = (root_model, root_name);
    IF holds IS NULL THEN
        RAISE EXCEPTION 'parameter "%" of model "%" has no values to share', root_name, root_model
            USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model, name, shape(data) FROM llm_param lists those that have.';
    ELSIF holds <> wants THEN
        RAISE EXCEPTION 'parameter "%" of model "%" has shape %, "%" of "%" requires %', root_name, root_model, holds,
            target_name, target_model, wants USING ERRCODE = 'array_subscript_error',
            HINT = 'Only parameters of the same shape can share one tensor.';
    END IF;
    SET CONSTRAINTS @extschema@.llm_share_is_flat DEFERRED;
    UPDATE @extschema@.llm_param_share AS s SET source_model = root_model, source_name = root_name
        WHERE (s.source_model, s.source_name) = (target_model, target_name);
    INSERT INTO @extschema@.llm_param_share AS s (target_model, target_name, source_model, source_name)
        VALUES (target_model, target_name, root_model, root_name) ON CONFLICT ON CONSTRAINT llm_param_share_pkey
        DO UPDATE SET source_model = EXCLUDED.source_model, source_name = EXCLUDED.source_name;
    SET CONSTRAINTS @extschema@.llm_share_is_flat IMMEDIATE;
    DELETE FROM @extschema@.llm_param AS p WHERE (p.model, p.name) = (target_model, target_name);
END $$;
COMMENT ON FUNCTION llm_share_param(text, text, text, text) IS
    'Stores the target parameter in the source: from now on both are read, trained and changed as one, and the '
    'target''s gradients are added to the source''s. Both must have the same shape. The target''s own row of '
    'llm_param is deleted, and parameters that were stored in it are stored in the source; a source that is itself '
    'shared stands for its own source';

CREATE FUNCTION llm_unshare_param(target_model text, target_name text, copy_optimizer_state boolean DEFAULT true)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    root @extschema@.llm_param_share;
BEGIN
    IF target_model IS NULL OR target_name IS NULL THEN
        RAISE EXCEPTION 'target_model and target_name must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM @extschema@.llm_train_lock(target_model);
    DELETE FROM @extschema@.llm_param_share AS s WHERE (s.target_model, s.target_name) = (target_model, target_name)
        RETURNING s.* INTO root;
    IF root.target_model IS NULL THEN
        RAISE EXCEPTION 'parameter "%" of model "%" is not shared', left(target_name, 100), left(target_model, 100)
            USING ERRCODE = 'undefined_object', HINT = 'SELECT * FROM llm_param_share lists those that are.';
    END IF;
    INSERT INTO @extschema@.llm_param AS own (model, name, data, m, v, step)
        SELECT target_model, target_name, p.data, CASE WHEN copy_optimizer_state THEN p.m END,
            CASE WHEN copy_optimizer_state THEN p.v END, CASE WHEN copy_optimizer_state THEN p.step ELSE 0 END
        FROM @extschema@.llm_param AS p WHERE (p.model, p.name) = (root.source_model, root.source_name)
        ON CONFLICT (model, name) DO UPDATE SET data = EXCLUDED.data, grad = NULL, m = EXCLUDED.m, v = EXCLUDED.v,
            step = EXCLUDED.step;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'parameter "%" of model "%" has no values to copy', root.source_name, root.source_model
            USING ERRCODE = 'undefined_object', HINT = 'DELETE FROM llm_param_share ends a share without values.';
    END IF;
END $$;
COMMENT ON FUNCTION llm_unshare_param(text, text, boolean) IS
    'Gives a shared parameter a row of its own again: a copy of the source''s values, moments and step; without '
    'copy_optimizer_state it has no moments and its step is 0';

CREATE FUNCTION _llm_check_model(model text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF model IS NULL THEN
        RAISE EXCEPTION 'model must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM @extschema@.llm_get_model_config(model);
END $$;
COMMENT ON FUNCTION _llm_check_model(text) IS 'Raises an error if there is no such model';

CREATE FUNCTION llm_zero_grad(model text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n bigint;
BEGIN
    PERFORM @extschema@._llm_check_model(model);
    UPDATE @extschema@.llm_param AS p SET grad = NULL
        WHERE p.grad IS NOT NULL AND (p.model = model OR (p.model, p.name) IN (
            SELECT s.source_model, s.source_name FROM @extschema@.llm_param_share AS s WHERE s.target_model = model));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
COMMENT ON FUNCTION llm_zero_grad(text) IS
    'Sets the gradients of a model''s parameters to NULL, those it shares included; the moments stay. Returns how '
    'many had one';

CREATE FUNCTION llm_reset_optimizer(model text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    n bigint;
BEGIN
    PERFORM @extschema@._llm_check_model(model);
    PERFORM @extschema@.llm_train_lock(model);
    UPDATE @extschema@.llm_param AS p SET m = NULL, v = NULL, step = 0
        WHERE p.model = model AND (p.m IS NOT NULL OR p.v IS NOT NULL OR p.step <> 0);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
COMMENT ON FUNCTION llm_reset_optimizer(text) IS
    'Deletes AdamW''s moments of a model''s own parameters and sets their step to 0; weights stay. Returns how many '
    'had some';
