-- One database for a class, by row level security: everybody reads the rows of the role that runs this script,
-- and reads and changes the own ones; nobody sees another student's. Run it as the owner of the extension's
-- tables, in a database that has pg_llm and the role llm_class; again after students were added, too.

DO $shared$
DECLARE
    home CONSTANT name := (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_llm');
    -- Rows of the students, and those that everybody may read.
    own CONSTANT text := 'owner = current_user';
    seen CONSTANT text := format('owner IN (current_user, %L)', current_user);
    of_model CONSTANT text := '%s IN (SELECT c.model FROM %I.llm_model_config AS c WHERE c.%s)';
    of_checkpoint CONSTANT text := 'checkpoint IN (SELECT c.id FROM %I.llm_checkpoint AS c WHERE c.%s)';
    of_run CONSTANT text := 'run IN (SELECT r.run FROM %I.llm_run AS r)';
    item record;
BEGIN
    FOR item IN
        SELECT t.name, t.writable, t.readable FROM (VALUES
            ('llm_model_config', own, seen), ('llm_dataset', own, seen), ('llm_checkpoint', own, seen),
            ('llm_bpe_vocab', own, seen), ('llm_bpe_merges', own, seen), ('llm_bpe_config', own, seen),
            ('llm_graph', format(of_model, 'model', home, own), format(of_model, 'model', home, seen)),
            ('llm_param', format(of_model, 'model', home, own), format(of_model, 'model', home, seen)),
            ('llm_param_share', format(of_model, 'target_model', home, own),
                format(of_model, 'target_model', home, seen)),
            ('llm_train_log', format(of_model, 'model', home, own), format(of_model, 'model', home, seen)),
            ('llm_train_run', 'who = current_user', format('who IN (current_user, %L)', current_user)),
            ('llm_checkpoint_model', format(of_checkpoint, home, own), format(of_checkpoint, home, seen)),
            ('llm_checkpoint_param', format(of_checkpoint, home, own), format(of_checkpoint, home, seen)),
            ('llm_run', 'who = current_user', 'who = current_user'),
            ('llm_tape', format(of_run, home), format(of_run, home)),
            ('llm_tensor_rt', format(of_run, home), format(of_run, home)),
            ('llm_tensor_map', format(of_run, home), format(of_run, home))
        ) AS t (name, writable, readable)
    LOOP
        IF item.writable = own THEN
            -- Rows that are there become those of the role that runs this.
            EXECUTE format('ALTER TABLE %I.%I ADD COLUMN IF NOT EXISTS owner name NOT NULL DEFAULT current_user',
                home, item.name);
        END IF;
        EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', home, item.name);
        EXECUTE format('DROP POLICY IF EXISTS reads ON %I.%I', home, item.name);
        EXECUTE format('DROP POLICY IF EXISTS changes ON %I.%I', home, item.name);
        EXECUTE format('CREATE POLICY reads ON %I.%I FOR SELECT TO llm_class USING (%s)', home, item.name,
            item.readable);
        EXECUTE format('CREATE POLICY changes ON %I.%I TO llm_class USING (%s)', home, item.name, item.writable);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.%I TO llm_class', home, item.name);
    END LOOP;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO llm_class', home);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO llm_class', home);
    EXECUTE format('GRANT USAGE ON SEQUENCE %1$I.llm_graph_id_seq, %1$I.llm_run_seq, %1$I.llm_dataset_id_seq, '
        '%1$I.llm_checkpoint_id_seq, %1$I.llm_train_run_run_seq, %1$I.llm_train_log_id_seq TO llm_class', home);
    -- A schema for each student's own tables, which comes first in search_path.
    FOR item IN
        SELECT r.rolname FROM pg_roles AS r JOIN pg_auth_members AS m ON m.member = r.oid AND NOT m.admin_option
        WHERE m.roleid = 'llm_class'::regrole
    LOOP
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', item.rolname, item.rolname);
    END LOOP;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO llm_class', current_database());
END $shared$;
