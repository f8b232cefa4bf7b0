-- Checkpoints: a model's weights, moments and step, stored as a file on the server or as rows.

CREATE SEQUENCE llm_checkpoint_id_seq;
COMMENT ON SEQUENCE llm_checkpoint_id_seq IS 'Source of llm_checkpoint.id';

CREATE TABLE llm_checkpoint (
    id           bigint PRIMARY KEY DEFAULT nextval('llm_checkpoint_id_seq'),
    model        text COLLATE "C" NOT NULL,
    step         bigint NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    note         text,
    parameters   bigint NOT NULL,
    bytes        bigint NOT NULL,
    location     text NOT NULL,
    format       text NOT NULL CHECK (format IN ('safetensors', 'npz', 'rows')),
    sha256       text NOT NULL,
    model_sha256 text NOT NULL,
    log_id       bigint,
    CHECK ((format = 'rows') = (location = 'database'))
);
ALTER SEQUENCE llm_checkpoint_id_seq OWNED BY llm_checkpoint.id;
CREATE INDEX ON llm_checkpoint (model, step);
COMMENT ON TABLE llm_checkpoint IS
    'A snapshot of a model: weights, AdamW''s moments and step, as llm_checkpoint_save found them';
COMMENT ON COLUMN llm_checkpoint.location IS
    'Where it is: a file''s path on the server, or ''database'' for rows of llm_checkpoint_param (not named '
    '"where", which SQL reserves)';
COMMENT ON COLUMN llm_checkpoint.sha256 IS
    'SHA-256 of the file''s bytes; of rows: as llm_model_sha256, over all of them';
COMMENT ON COLUMN llm_checkpoint.model_sha256 IS 'llm_model_sha256 of the model';
COMMENT ON COLUMN llm_checkpoint.log_id IS
    'The model''s last row in llm_train_log at that time: llm_replay continues after it; NULL: there was none';

CREATE TABLE llm_checkpoint_model (
    checkpoint bigint PRIMARY KEY REFERENCES llm_checkpoint ON UPDATE CASCADE ON DELETE CASCADE,
    config     jsonb NOT NULL,
    graph      jsonb NOT NULL,
    steps      jsonb NOT NULL
);
COMMENT ON TABLE llm_checkpoint_model IS
    'The architecture of a checkpoint''s model, so that it can be loaded where the model no longer exists';
COMMENT ON COLUMN llm_checkpoint_model.config IS 'The row of llm_model_config';
COMMENT ON COLUMN llm_checkpoint_model.graph IS
    'The rows of llm_graph in their order: name, op, inputs, attrs, and the shape of each parameter';
COMMENT ON COLUMN llm_checkpoint_model.steps IS 'Parameters whose step is not the checkpoint''s: {name: step}';

-- One row per tensor: m and v in the same row as data would reach PostgreSQL's limit of 1 GB per row with
-- tensors a third of the size.
CREATE TABLE llm_checkpoint_param (
    checkpoint bigint NOT NULL REFERENCES llm_checkpoint ON UPDATE CASCADE ON DELETE CASCADE,
    name       text COLLATE "C" NOT NULL,
    data       tensor NOT NULL,
    PRIMARY KEY (checkpoint, name)
);
COMMENT ON TABLE llm_checkpoint_param IS
    'A tensor of a checkpoint in the database, named as in a checkpoint file: a parameter wte.weight, its moments '
    'optimizer.m.wte.weight and optimizer.v.wte.weight';

SELECT pg_catalog.pg_extension_config_dump('llm_checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('llm_checkpoint_model', '');
SELECT pg_catalog.pg_extension_config_dump('llm_checkpoint_param', '');
SELECT pg_catalog.pg_extension_config_dump('llm_checkpoint_id_seq', '');

CREATE FUNCTION _llm_model_digest(model text) RETURNS text
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'llm_model_digest';
COMMENT ON FUNCTION _llm_model_digest(text) IS 'What llm_model_sha256 calls once it knows that the model has weights';

CREATE FUNCTION llm_model_sha256(model text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._llm_export_check(model);
    RETURN @extschema@._llm_model_digest(model);
END $$;
COMMENT ON FUNCTION llm_model_sha256(text) IS
    'SHA-256 of a model''s parameters in the order of their names (by code point): of each the name in UTF-8, a '
    'zero byte, the shape as 50257,768, a zero byte, and the little-endian float32 elements';

CREATE FUNCTION _llm_checkpoint_tensors(model text)
    RETURNS TABLE (name text, owner_model text, owner_name text, part text, shape int[])
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT part.prefix || r.name, r.owner_model, r.owner_name, part.part, part.shape
    FROM @extschema@._llm_export_rows(model) AS r
    JOIN @extschema@.llm_param AS p ON p.model = r.owner_model AND p.name = r.owner_name,
    LATERAL (VALUES ('', 'data', @extschema@.shape(p.data)), ('optimizer.m.', 'm', @extschema@.shape(p.m)),
                    ('optimizer.v.', 'v', @extschema@.shape(p.v))) AS part (prefix, part, shape)
    -- A frozen parameter's moments, of a time when it was trained, are not kept.
    WHERE part.shape IS NOT NULL AND (part.part = 'data' OR NOT EXISTS (SELECT FROM @extschema@.llm_graph AS g
        WHERE g.model = _llm_checkpoint_tensors.model AND g.name = r.name AND g.attrs @> '{"trainable": false}'))
$$;
COMMENT ON FUNCTION _llm_checkpoint_tensors(text) IS
    'What a checkpoint of a model holds: each tensor''s name, and the row and column of llm_param it comes from';

CREATE FUNCTION _llm_checkpoint_facts(model text, OUT step bigint, OUT log_id bigint, OUT parameters bigint,
    OUT config jsonb, OUT graph jsonb, OUT steps jsonb, OUT file_config text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH param AS MATERIALIZED (
        SELECT r.name, r.owner_model, p.step, r.shape, @extschema@.numel(p.data) AS numel
        FROM @extschema@._llm_export_rows(model) AS r
        JOIN @extschema@.llm_param AS p ON p.model = r.owner_model AND p.name = r.owner_name
    ), newest AS ( -- as in training: its own parameters' steps, if it has any
        SELECT coalesce(max(p.step) FILTER (WHERE p.owner_model = model), max(p.step), 0) AS step FROM param AS p
    )
    SELECT newest.step,
        (SELECT max(log.id) FROM @extschema@.llm_train_log AS log
            WHERE log.model = _llm_checkpoint_facts.model),
        (SELECT coalesce(sum(p.numel), 0)::bigint FROM param AS p),
        (SELECT to_jsonb(c) FROM @extschema@.llm_model_config AS c WHERE c.model = _llm_checkpoint_facts.model),
        (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', g.name, 'op', g.op, 'inputs', g.inputs,
                'attrs', g.attrs, 'shape', p.shape)) ORDER BY g.id, g.name)
            FROM @extschema@.llm_graph AS g LEFT JOIN param AS p ON p.name = g.name AND g.op = 'param'
            WHERE g.model = _llm_checkpoint_facts.model),
        (SELECT coalesce(jsonb_object_agg(p.name, p.step), '{}') FROM param AS p WHERE p.step <> newest.step),
        jsonb_pretty(@extschema@.llm_export_config(model) || jsonb_build_object('pg_llm_checkpoint',
            jsonb_build_object('format_version', 1, 'model', model, 'step', newest.step)))
    FROM newest
$$;
COMMENT ON FUNCTION _llm_checkpoint_facts(text) IS
    'What llm_checkpoint stores about a model besides its tensors, and the config.json of a checkpoint file';

CREATE FUNCTION _llm_checkpoint_write(id bigint, model text, format text, config text, OUT location text,
    OUT bytes bigint, OUT sha256 text, OUT model_sha256 text)
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'llm_checkpoint_write';
COMMENT ON FUNCTION _llm_checkpoint_write(bigint, text, text, text) IS
    'Writes a model''s tensors as safetensors, npz or rows, and returns their location and SHA-256; what '
    'llm_checkpoint_save calls';

CREATE FUNCTION _llm_checkpoint_place(format text, location text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    in_file boolean := location = 'file';
BEGIN
    IF location NOT IN ('file', 'database') THEN
        RAISE EXCEPTION 'location is "%", expected ''file'' or ''database''', left(location, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'pg_llm names files itself, below pg_llm.checkpoint_dir; '
                      'pg_llm_export_safetensors(path, model) writes to a path of your choice.';
    ELSIF format NOT IN ('safetensors', 'npz', 'rows') THEN
        RAISE EXCEPTION 'format is "%", expected ''safetensors'' or ''npz''', left(format, 100)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Both hold the same tensors; transformers reads safetensors, NumPy reads npz.';
    ELSIF (format = 'rows' AND in_file) OR (format <> 'rows' AND location = 'database') THEN
        RAISE EXCEPTION 'a checkpoint of format "%" cannot have the location "%"', format, location
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'In the database a checkpoint is rows: leave the format out. Files are safetensors or npz.';
    END IF;
    in_file := coalesce(in_file, format <> 'rows',
        pg_has_role(current_user, 'pg_write_server_files', 'USAGE')
            AND current_setting('pg_llm.checkpoint_dir', true) <> '');
    RETURN CASE WHEN in_file THEN coalesce(format, 'safetensors') ELSE 'rows' END;
END $$;
COMMENT ON FUNCTION _llm_checkpoint_place(text, text) IS
    'The format of a new checkpoint: a file if asked for, or if the role may write one and pg_llm.checkpoint_dir is '
    'set; else rows';

CREATE FUNCTION llm_checkpoint_save(model text, note text DEFAULT NULL, format text DEFAULT NULL,
    location text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    new_id bigint;
    the_format CONSTANT text := @extschema@._llm_checkpoint_place(format, location);
    facts record;
BEGIN
    PERFORM @extschema@._llm_export_check(model);
    new_id := nextval('@extschema@.llm_checkpoint_id_seq');
    -- This row first: the rows of llm_checkpoint_param refer to it.
    INSERT INTO @extschema@.llm_checkpoint
        (id, model, step, note, parameters, bytes, location, format, sha256, model_sha256)
        VALUES (new_id, model, 0, note, 0, 0, CASE the_format WHEN 'rows' THEN 'database' ELSE '' END, the_format,
            '', '');
    -- One statement, one snapshot: the row describes exactly the weights written.
    SELECT * INTO STRICT facts FROM @extschema@._llm_checkpoint_facts(model) AS f,
        LATERAL @extschema@._llm_checkpoint_write(new_id, model, the_format, f.file_config) AS w;
    UPDATE @extschema@.llm_checkpoint AS c SET step = facts.step, parameters = facts.parameters, bytes = facts.bytes,
        location = facts.location, sha256 = facts.sha256, model_sha256 = facts.model_sha256, log_id = facts.log_id
        WHERE c.id = new_id;
    INSERT INTO @extschema@.llm_checkpoint_model (checkpoint, config, graph, steps)
        VALUES (new_id, facts.config, facts.graph, facts.steps);
    RETURN new_id;
END $$;
COMMENT ON FUNCTION llm_checkpoint_save(text, text, text, text) IS
    'Saves a model''s weights, moments and step, and returns the checkpoint''s id. format: safetensors or npz; '
    'location: file or database; by default a safetensors file where the role may write one and '
    'pg_llm.checkpoint_dir is set, else rows in the database. A rollback removes the file';

CREATE FUNCTION _llm_checkpoint_get(id bigint) RETURNS llm_checkpoint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    found_row @extschema@.llm_checkpoint;
BEGIN
    SELECT c.* INTO found_row FROM @extschema@.llm_checkpoint AS c WHERE c.id = id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no checkpoint %', coalesce(id::text, 'NULL') USING ERRCODE = 'undefined_object',
            HINT = 'SELECT id, model, step, at, note FROM llm_checkpoint ORDER BY id lists them.';
    END IF;
    RETURN found_row;
END $$;
COMMENT ON FUNCTION _llm_checkpoint_get(bigint) IS 'A row of llm_checkpoint, or an error that says how to list them';

CREATE FUNCTION _llm_checkpoint_make(model text, id bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    source text;
    saved @extschema@.llm_checkpoint_model;
BEGIN
    SELECT s.* INTO saved FROM @extschema@.llm_checkpoint_model AS s WHERE s.checkpoint = id;
    SELECT c.model INTO source FROM @extschema@.llm_checkpoint AS c WHERE c.id = id;
    IF NOT EXISTS (SELECT FROM @extschema@.llm_model_config AS c WHERE c.model = model) THEN
        INSERT INTO @extschema@.llm_model_config
            SELECT n.* FROM jsonb_populate_record(NULL::@extschema@.llm_model_config,
                saved.config || jsonb_build_object('model', model, 'tokenizer', coalesce(
                    CASE WHEN model <> source AND EXISTS (SELECT FROM @extschema@.llm_bpe_vocab AS v
                        WHERE v.model = source) THEN source END, saved.config ->> 'tokenizer'))) AS n;
    END IF;
    IF NOT EXISTS (SELECT FROM @extschema@.llm_graph AS g WHERE g.model = model) THEN
        INSERT INTO @extschema@.llm_graph (model, name, op, inputs, attrs)
            SELECT model, n.node ->> 'name', n.node ->> 'op',
                ARRAY(SELECT i.name FROM jsonb_array_elements_text(n.node -> 'inputs')
                    WITH ORDINALITY AS i (name, place) ORDER BY place),
                n.node -> 'attrs'
            FROM jsonb_array_elements(saved.graph) WITH ORDINALITY AS n (node, place) ORDER BY n.place;
    END IF;
END $$;
COMMENT ON FUNCTION _llm_checkpoint_make(text, bigint) IS
    'Creates the model of a checkpoint under this name if there is none';

CREATE FUNCTION _llm_checkpoint_check(model text, id bigint) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    saved @extschema@.llm_checkpoint_model;
    source text;
    differences text[];
BEGIN
    SELECT c.model INTO source FROM @extschema@.llm_checkpoint AS c WHERE c.id = id;
    SELECT s.* INTO saved FROM @extschema@.llm_checkpoint_model AS s WHERE s.checkpoint = id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint % has no row in llm_checkpoint_model', id USING ERRCODE = 'undefined_object';
    END IF;
    SELECT array_agg(format('%s: checkpoint %s, model %s', coalesce(s.name, p.name), coalesce(s.shape, 'none'),
            coalesce(p.shape, 'none')) ORDER BY coalesce(s.name, p.name)) INTO differences
        FROM (SELECT n ->> 'name', translate(n ->> 'shape', '[] ', '()') FROM jsonb_array_elements(saved.graph) AS n
              WHERE n ->> 'op' = 'param') AS s (name, shape)
        FULL JOIN (SELECT name, translate(shape::text, '{}', '()') FROM @extschema@.llm_param_shapes(model))
            AS p (name, shape) ON p.name = s.name
        WHERE s.shape IS DISTINCT FROM p.shape;
    IF differences IS NOT NULL THEN
        RAISE EXCEPTION 'checkpoint % is of model "%", whose parameters are not those of model "%"', id, source, model
            USING ERRCODE = 'array_subscript_error', DETAIL = @extschema@._llm_import_list(differences),
                  HINT = 'Load it under an unused name: the model is then created as it was.';
    END IF;
    SELECT array_agg(coalesce(s.name, g.name) ORDER BY coalesce(s.name, g.name)) INTO differences
        FROM (SELECT n ->> 'name', n -> 'op', n -> 'inputs', n -> 'attrs' FROM jsonb_array_elements(saved.graph) AS n)
            AS s (name, op, inputs, attrs)
        FULL JOIN (SELECT * FROM @extschema@.llm_graph AS own WHERE own.model = model) AS g ON g.name = s.name
        WHERE (s.op, s.inputs, s.attrs) IS DISTINCT FROM (to_jsonb(g.op), to_jsonb(g.inputs), g.attrs);
    IF differences IS NOT NULL THEN
        RAISE WARNING 'the graph of model "%" is not what it was when checkpoint % was saved: '
            'the same weights compute something different', model, id
            USING DETAIL = 'Nodes that differ: ' || @extschema@._llm_import_list(differences);
    END IF;
END $$;
COMMENT ON FUNCTION _llm_checkpoint_check(text, bigint) IS
    'Raises an error unless a model has the parameters of a checkpoint, by name and shape; warns if the rest of its '
    'graph differs';

CREATE FUNCTION _llm_checkpoint_read(id bigint, model text, location text, format text, sha256 text) RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'llm_checkpoint_read';
COMMENT ON FUNCTION _llm_checkpoint_read(bigint, text, text, text, text) IS
    'Compares a checkpoint with its SHA-256 and writes its tensors into the rows of a model; what '
    'llm_checkpoint_load calls';

CREATE FUNCTION llm_checkpoint_load(model text, id bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    saved CONSTANT @extschema@.llm_checkpoint := @extschema@._llm_checkpoint_get(id);
    others text;
BEGIN
    IF model IS NULL OR model = '' THEN
        RAISE EXCEPTION 'a model needs a name' USING ERRCODE = 'invalid_parameter_value',
            HINT = format('To load it where it came from: SELECT llm_checkpoint_load(%L, %s);', saved.model, saved.id);
    END IF;
    PERFORM @extschema@._llm_checkpoint_make(model, id);
    PERFORM @extschema@._llm_checkpoint_check(model, id);
    INSERT INTO @extschema@.llm_param (model, name)
        SELECT r.owner_model, r.owner_name FROM @extschema@._llm_export_rows(model) AS r
        WHERE NOT EXISTS (SELECT FROM @extschema@.llm_param AS p
            WHERE p.model = r.owner_model AND p.name = r.owner_name);
    PERFORM @extschema@._llm_checkpoint_read(saved.id, model, saved.location, saved.format, saved.sha256);
    UPDATE @extschema@.llm_param AS p SET step = coalesce((s.steps ->> r.name)::bigint, saved.step)
        FROM @extschema@._llm_export_rows(model) AS r, @extschema@.llm_checkpoint_model AS s
        WHERE s.checkpoint = saved.id AND p.model = r.owner_model AND p.name = r.owner_name;
    SELECT string_agg(DISTINCT r.owner_model, ', ') INTO others FROM @extschema@._llm_export_rows(model) AS r
        WHERE r.owner_model <> model;
    IF others IS NOT NULL THEN
        RAISE NOTICE 'parameters that model "%" shares were loaded into their source: %', model, others;
    END IF;
    RETURN saved.step;
END $$;
COMMENT ON FUNCTION llm_checkpoint_load(text, bigint) IS
    'Loads a checkpoint''s weights, moments and step into a model (one with the same parameters, or a new name: the '
    'model is then created), and returns the step; a checkpoint that is not what was saved is refused, and the model '
    'keeps its weights';

CREATE FUNCTION _llm_checkpoint_remove(id bigint, location text) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'llm_checkpoint_remove';
COMMENT ON FUNCTION _llm_checkpoint_remove(bigint, text) IS
    'Removes a checkpoint''s file when the transaction commits; false where this database did not make it';

CREATE FUNCTION llm_checkpoint_delete(id bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    saved CONSTANT @extschema@.llm_checkpoint := @extschema@._llm_checkpoint_get(id);
BEGIN
    IF saved.location <> 'database' AND NOT @extschema@._llm_checkpoint_remove(saved.id, saved.location) THEN
        RAISE NOTICE 'the file "%" stays: it is not in this database''s folder below pg_llm.checkpoint_dir',
            saved.location;
    END IF;
    DELETE FROM @extschema@.llm_checkpoint AS c WHERE c.id = id;
END $$;
COMMENT ON FUNCTION llm_checkpoint_delete(bigint) IS
    'Deletes a checkpoint; its file is removed when the transaction commits (a plain DELETE FROM llm_checkpoint '
    'leaves the file)';

CREATE FUNCTION _llm_replay_steps(model text, from_checkpoint bigint, log_ids bigint[], hashed bigint[])
    RETURNS TABLE (step bigint, loss real, logged real, matches boolean, model_sha256 text)
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'llm_replay_steps';
COMMENT ON FUNCTION _llm_replay_steps(text, bigint, bigint[], bigint[]) IS
    'Computes these steps of llm_train_log again from a checkpoint, in memory; the weights'' llm_model_sha256 after '
    'the steps in hashed';

CREATE FUNCTION _llm_replay_chain(model text, from_checkpoint bigint, to_step bigint) RETURNS bigint[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    saved CONSTANT @extschema@.llm_checkpoint := @extschema@._llm_checkpoint_get(from_checkpoint);
    last_step CONSTANT bigint := coalesce(to_step, (SELECT log.step FROM @extschema@.llm_train_log AS log
        WHERE log.model = model AND log.id > coalesce(saved.log_id, 0) ORDER BY log.id DESC LIMIT 1));
    ids bigint[];
    first_step bigint;
    gone text;
BEGIN
    IF last_step IS NULL THEN
        RAISE EXCEPTION 'llm_train_log has no step of model "%" after checkpoint %', model, from_checkpoint
            USING ERRCODE = '02000',
            HINT = 'Replay computes logged steps again: train first, or choose an earlier checkpoint.';
    ELSIF last_step <= saved.step THEN
        RAISE EXCEPTION 'to_step is %, and checkpoint % is of step %', last_step, from_checkpoint, saved.step
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Replay goes forward: choose a later step or an earlier checkpoint.';
    END IF;
    -- From the newest row of the last step backwards: a model set back to an earlier step has several rows
    -- per step.
    WITH RECURSIVE chain AS (
        (SELECT log.id, log.step FROM @extschema@.llm_train_log AS log
            WHERE log.model = model AND log.step = last_step AND log.id > coalesce(saved.log_id, 0)
            ORDER BY log.id DESC LIMIT 1)
        UNION ALL
        SELECT before.id, before.step FROM chain, LATERAL (
            SELECT log.id, log.step FROM @extschema@.llm_train_log AS log
            WHERE log.model = model AND log.step = chain.step - 1
                AND log.id < chain.id AND log.id > coalesce(saved.log_id, 0) ORDER BY log.id DESC LIMIT 1) AS before
        WHERE chain.step > saved.step + 1
    )
    SELECT array_agg(chain.id ORDER BY chain.step), coalesce(min(chain.step), last_step + 1)
        INTO ids, first_step FROM chain;
    IF first_step <> saved.step + 1 THEN
        RAISE EXCEPTION 'llm_train_log has no row for step % of model "%"', first_step - 1, model
            USING ERRCODE = '02000',
            HINT = format('Steps %s to %s are needed after checkpoint %s.', saved.step + 1, last_step, from_checkpoint);
    END IF;
    SELECT string_agg(format('step %s: row %s', missing.step, missing.id), ', ' ORDER BY missing.step, missing.id)
        INTO gone
        FROM (SELECT DISTINCT log.step, r.id FROM @extschema@.llm_train_log AS log, unnest(log.rows) AS r (id)
            WHERE log.id = ANY (ids) AND NOT EXISTS (SELECT FROM @extschema@.llm_dataset AS d WHERE d.id = r.id)
            ORDER BY 1, 2 LIMIT 20) AS missing;
    IF gone IS NOT NULL THEN
        RAISE EXCEPTION 'rows of llm_dataset that these steps were trained on are missing'
            USING ERRCODE = '02000', DETAIL = gone,
            HINT = 'Restore them with the same ids, or replay up to the step before (to_step).';
    END IF;
    RETURN ids;
END $$;
COMMENT ON FUNCTION _llm_replay_chain(text, bigint, bigint) IS
    'The rows of llm_train_log that lead from a checkpoint to a step, in order; an error if one of them, or a row it '
    'was trained on, is missing';

CREATE FUNCTION llm_replay(model text, from_checkpoint bigint, to_step bigint DEFAULT NULL)
    RETURNS TABLE (step bigint, loss real, logged real, matches boolean, weights_match boolean, compared_with text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    ids CONSTANT bigint[] := @extschema@._llm_replay_chain(model, from_checkpoint, to_step);
    now_at bigint;
BEGIN
    PERFORM @extschema@._llm_checkpoint_check(model, from_checkpoint);
    PERFORM @extschema@._llm_export_check(model);
    SELECT f.step INTO now_at FROM @extschema@._llm_checkpoint_facts(model) AS f;
    RETURN QUERY
    WITH logged AS (SELECT log.id, log.step FROM @extschema@.llm_train_log AS log WHERE log.id = ANY (ids)),
    known AS MATERIALIZED ( -- hashes of the weights after a step: of checkpoints, and of the model
        SELECT l.step, c.model_sha256, 'checkpoint ' || c.id AS what
        FROM logged AS l JOIN @extschema@.llm_checkpoint AS c ON c.log_id = l.id AND c.step = l.step
        UNION ALL
        SELECT l.step, @extschema@.llm_model_sha256(model), 'model ' || model FROM logged AS l WHERE l.step = now_at
            AND l.id = (SELECT max(log.id) FROM @extschema@.llm_train_log AS log WHERE log.model = model)
    )
    SELECT r.step, r.loss, r.logged, r.matches, k.matches, k.what
    FROM @extschema@._llm_replay_steps(model, from_checkpoint, ids, ARRAY(SELECT k.step FROM known AS k)) AS r
    LEFT JOIN LATERAL (SELECT bool_and(known.model_sha256 = r.model_sha256) AS matches,
            string_agg(known.what, ', ' ORDER BY known.what) AS what
        FROM known WHERE known.step = r.step) AS k ON true
    ORDER BY r.step;
END $$;
COMMENT ON FUNCTION llm_replay(text, bigint, bigint) IS
    'Computes a model''s training again from a checkpoint''s weights, the rows of llm_dataset, the seeds and '
    'llm_train_log, in memory, up to to_step (NULL: the newest one logged). matches: loss and gradient norm are the '
    'logged ones to the last bit; weights_match: so are the weights of compared_with, a later checkpoint or the '
    'model itself (NULL: there is nothing to compare with)';
