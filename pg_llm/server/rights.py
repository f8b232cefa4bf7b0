"""The rights of roles in a database of the kit.

A superuser creates the template and owns everything in it; copies belong to the roles that create them. The
schema of the extension stays the superuser's, so that no role can put a function, a table or a trigger where
the extension, or a superuser at work there, would run it. README's section Security has the details.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from pg_llm import catalog
from pg_llm.errors import KitError

# Tables that only the extension writes: PUBLIC may read them.
READ_ONLY = ["llm_op", "llm_model_version", "llm_version_seq"]

# Also revokes what older builds granted: every right on tables, TRIGGER and REFERENCES among them, and CREATE
# on the schema for everybody: the owner of the database gets a schema instead. Objects that a role attached
# to a table by such a right are dropped, with a warning.
SECURE = """
DO $secure$
DECLARE
    extension oid := (SELECT oid FROM pg_extension WHERE extname = 'pg_llm');
    home regnamespace := (SELECT extnamespace FROM pg_extension WHERE extname = 'pg_llm');
    members CONSTANT oid[] := ARRAY(SELECT objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass
        AND refobjid = extension AND classid = 'pg_class'::regclass AND deptype = 'e');
    item record;
BEGIN
    EXECUTE format('ALTER SCHEMA %s OWNER TO CURRENT_USER', home);
    FOR item IN SELECT r.rolname FROM pg_namespace n, aclexplode(n.nspacl) a
        LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE n.oid = home AND a.privilege_type = 'CREATE' AND NOT coalesce(r.rolsuper, false)
    LOOP
        EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM %s CASCADE', home,
            coalesce(quote_ident(item.rolname), 'PUBLIC'));
    END LOOP;
    FOR item IN SELECT r.rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
        WHERE d.datname = current_database() AND NOT r.rolsuper
        AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = r.rolname)
    LOOP
        EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', item.rolname, item.rolname);
    END LOOP;
    FOR item IN SELECT DISTINCT c.oid::regclass AS relation, a.privilege_type, r.rolname
        FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = ANY (members) AND c.relkind <> 'S' AND NOT coalesce(r.rolsuper, false)
            AND a.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s CASCADE', item.privilege_type, item.relation,
            coalesce(quote_ident(item.rolname), 'PUBLIC'));
    END LOOP;
    FOR item IN SELECT t.tgname, t.tgrelid::regclass AS relation, p.oid::regprocedure AS function
        FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_roles r ON r.oid = p.proowner
        WHERE t.tgrelid = ANY (members) AND NOT t.tgisinternal AND NOT r.rolsuper
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.relation);
        RAISE WARNING 'trigger % on % was dropped: it ran % with the rights of others',
            item.tgname, item.relation, item.function;
    END LOOP;
    FOR item IN SELECT k.conname, k.conrelid::regclass AS relation, k.confrelid::regclass AS target
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_roles r ON r.oid = c.relowner
        WHERE k.contype = 'f' AND k.confrelid = ANY (members) AND k.conparentid = 0 AND NOT r.rolsuper
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', item.relation, item.conname);
        RAISE WARNING 'foreign key % of % was dropped: by it % could run triggers with the rights of others',
            item.conname, item.relation, item.target;
    END LOOP;
    FOR item IN SELECT p.oid::regprocedure AS function FROM pg_proc p JOIN pg_depend d
        ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refobjid = extension AND d.deptype = 'e'
        WHERE p.prosecdef
    LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY INVOKER', item.function);
    END LOOP;
    FOR item IN SELECT c.oid::regclass AS relation FROM pg_class c
        WHERE c.oid = ANY (members) AND c.relkind = 'v'
    LOOP
        EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', item.relation);
    END LOOP;
    FOR item IN SELECT c.oid::regclass AS relation, k.kind,
            CASE WHEN c.relname = ANY ({read_only}) THEN 'SELECT' WHEN k.kind = 'SEQUENCE'
            THEN 'USAGE, SELECT, UPDATE' ELSE 'SELECT, INSERT, UPDATE, DELETE' END AS rights
        FROM pg_class c, LATERAL (SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END) AS k (kind)
        WHERE c.oid = ANY (members) AND c.relkind IN ('r', 'v', 'S')
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM PUBLIC', item.kind, item.relation);
        EXECUTE format('GRANT %s ON %s %s TO PUBLIC', item.rights, item.kind, item.relation);
    END LOOP;
END $secure$
"""


def hint(error: BaseException) -> str | None:
    """What to ask for where a role lacks a right on what the extension owns; None for other errors."""
    if not isinstance(error, psycopg.errors.InsufficientPrivilege):
        return None
    denied = re.match(r"permission denied for (\w+) (.+)", error.diag.message_primary or "")
    if denied is None or not (denied[1] == "schema" or denied[2].startswith("llm_")):
        return None
    if denied[1] == "schema":
        return f"ask its owner: GRANT USAGE ON SCHEMA {denied[2]} TO your_role; GRANT CREATE to make tables"
    return (
        "ask their owner: GRANT SELECT ON ALL TABLES IN SCHEMA public TO your_role lets you run models; the "
        "guide, section A class on one server, says what else there is to grant"
    )


def secure(conn: psycopg.Connection) -> None:
    """Sets the rights in a database that was created from the template or will become it, as a superuser.

    No code in the database that a role may have created is executed: names resolve in pg_catalog only, and
    the wait for a lock is limited to a moment.
    """
    names = ", ".join(f"'{name}'" for name in READ_ONLY)
    with conn.transaction():
        conn.execute("SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog, pg_temp")
        conn.execute("SET LOCAL lock_timeout = '5s'")
        conn.execute(SECURE.replace("{read_only}", f"ARRAY[{names}]"))


def stranger(conn: psycopg.Connection, database: str) -> str | None:
    """The owner of a database, if it is another role without superuser rights."""
    query = (
        "SELECT r.rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba "
        "WHERE d.datname = %s AND NOT r.rolsuper AND r.rolname <> session_user"
    )
    row = conn.execute(query, [database]).fetchone()
    return row[0] if row else None


def refuse_strangers(conn: psycopg.Connection) -> None:
    """Keeps a superuser out of another role's database, where a name may refer to that role's own code.

    The owner may also have set a role for all sessions in the database, from which any code there can return
    to the superuser: the login role counts, not the current role.
    """
    conn.execute("SET search_path = pg_catalog, pg_temp")
    superuser = catalog.value(conn, "SELECT rolsuper FROM pg_roles WHERE rolname = session_user")
    owner = stranger(conn, conn.info.dbname) if superuser else None
    if owner:
        name, user = conn.info.dbname, conn.info.user
        conn.close()
        raise KitError(
            f"database {name} belongs to role {owner}: what {owner} made there would run with the rights of "
            f"{user}, a superuser. Connect as {owner}, or as another role that is no superuser"
        )
    conn.execute("RESET search_path")


def own_schema(conn: psycopg.Connection, owner: str | None = None) -> None:
    """Creates a schema of the role's name, first in search_path, if the extension's is closed to it.

    owner: the role, if not this one.
    """
    query = (
        "SELECT pg_catalog.has_schema_privilege(coalesce(%s, current_user), extnamespace, 'CREATE') "
        "FROM pg_catalog.pg_extension WHERE extname = 'pg_llm'"
    )
    if conn.execute(query, [owner]).fetchone() == (False,):
        role = sql.Identifier(owner) if owner else sql.SQL("CURRENT_USER")
        conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS AUTHORIZATION {}").format(role))
