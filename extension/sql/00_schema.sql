-- The schema must belong to the superuser: an object that another role creates there, an operator or a
-- function with a name that the extension uses, would be executed with the rights of every caller of the
-- extension, and during installation with those of the installing role. Checking for existing objects would
-- not suffice: an open transaction may be creating more.

DO $guard$
DECLARE
    path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    item record;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT coalesce(r.rolname, 'PUBLIC') AS who INTO item FROM pg_namespace n,
        aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
        LEFT JOIN pg_database d ON d.datname = current_database() AND a.grantee = 'pg_database_owner'::regrole
        LEFT JOIN pg_roles r ON r.oid = coalesce(d.datdba, a.grantee)
        WHERE n.oid = '@extschema@'::regnamespace AND a.privilege_type = 'CREATE' AND NOT coalesce(r.rolsuper, false)
        ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'role "%", which is not a superuser, may create objects in schema %', item.who, $$@extschema@$$
            USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'Objects that it creates there could run with the rights of any role that installs or calls '
            'pg_llm.',
            HINT = 'CREATE SCHEMA llm; CREATE EXTENSION pg_llm SCHEMA llm, with llm in search_path; '
            'or ALTER SCHEMA @extschema@ OWNER TO CURRENT_USER first.';
    END IF;
    SELECT f.what, r.rolname INTO item FROM (
        SELECT 'function ' || p.oid::regprocedure, p.proowner FROM pg_proc p
            WHERE p.pronamespace = '@extschema@'::regnamespace
        UNION ALL
        SELECT 'operator ' || o.oid::regoperator, o.oprowner FROM pg_operator o
            WHERE o.oprnamespace = '@extschema@'::regnamespace
        UNION ALL
        SELECT 'type ' || t.oid::regtype, t.typowner FROM pg_type t WHERE t.typnamespace = '@extschema@'::regnamespace
            AND t.typtype <> 'c' AND t.typcategory <> 'A') AS f (what, owner)
        JOIN pg_roles r ON r.oid = f.owner WHERE NOT r.rolsuper ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% in schema % belongs to role "%", which is not a superuser', item.what, $$@extschema@$$,
            item.rolname USING ERRCODE = 'insufficient_privilege',
            HINT = 'It could run while pg_llm is installed. Install into a schema of its own: '
            'CREATE SCHEMA llm; CREATE EXTENSION pg_llm SCHEMA llm.';
    END IF;
    PERFORM pg_catalog.set_config('search_path', path, true);
END $guard$;

CREATE FUNCTION _llm_check_build(build text) RETURNS void
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_check_build';
COMMENT ON FUNCTION _llm_check_build(text) IS 'Raises an error unless the library is of that build';

-- Before a function is missed that only one of the two has.
DO $$ BEGIN PERFORM @extschema@._llm_check_build('@LLM_BUILD@'); END $$;
