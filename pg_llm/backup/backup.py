"""pg-llm backup: a whole database in one file, including what pg_dump loses of an extension's tables.

pg_dump writes the users' own objects. The kit writes the users' changes to the extension's tables
(alterations.py), and the rows of these and of all tables with tensors (rows.py), because a row in pg_dump's
text form is limited to 1 GB.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from pg_llm import catalog
from pg_llm.backup import alterations, archive, rows
from pg_llm.errors import KitError
from pg_llm.server import clients, reset
from pg_llm.server.connect import open_database

DUMP = "database.dump"
LOCK_SECONDS = 60

SEQUENCES = f"WITH {alterations.MEMBER} SELECT seq::regclass::text FROM sequence ORDER BY 1"
RELATIONS = f"""
WITH {alterations.MEMBER} SELECT name::text, n.nspname, c.relname FROM member
JOIN pg_class c ON c.oid = rel JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1
"""

DATABASE = """
SELECT jsonb_build_object('database', to_jsonb(d), 'encoding', pg_encoding_to_char(d.encoding),
    'owner', pg_get_userbyid(d.datdba), 'comment', shobj_description(d.oid, 'pg_database'),
    'server', current_setting('server_version_num')::int,
    'version', (SELECT extversion FROM pg_extension WHERE extname = 'pg_llm'),
    'settings', (SELECT jsonb_agg(jsonb_build_array(r.rolname, s.setconfig) ORDER BY r.rolname)
        FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid),
    'acl', (SELECT jsonb_agg(jsonb_build_array(r.rolname, a.privilege_type, a.is_grantable))
        FROM aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee))
FROM pg_database d WHERE d.datname = current_database()
"""

# Roles and the entries that name them: o owners, a grants, r policies, s settings of a role in this database.
ROLES = """
WITH here AS (SELECT oid FROM pg_database WHERE datname = current_database()), used (role, use) AS (
    SELECT refobjid, deptype::text FROM pg_shdepend, here WHERE refclassid = 'pg_authid'::regclass
        AND (dbid = here.oid OR (classid = 'pg_database'::regclass AND objid = here.oid))
    UNION SELECT relowner, 'o' FROM pg_class -- the first superuser is in no pg_shdepend
    UNION SELECT setrole, 's' FROM pg_db_role_setting, here WHERE setdatabase = here.oid
)
SELECT jsonb_object_agg(rolname, uses) FROM (SELECT rolname, string_agg(DISTINCT use, '') AS uses
    FROM used JOIN pg_roles r ON r.oid = role GROUP BY rolname) AS r
"""


def backup(database: str, path: Path, replace: bool = False, say: Callable = print) -> None:
    """Writes a database to a file, as of one moment; it can stay in use meanwhile.

    Errors: KitError, and no file. Example: backup("00_start_here", Path("lesson.backup"))
    """
    with contextlib.closing(open_database(database)) as conn:
        session(conn)
        if conn.info.server_version >= (clients.MAJOR + 1) * 10000:
            raise KitError(
                f"the server is PostgreSQL {conn.info.server_version // 10000}; the kit's pg_dump is of "
                f"{clients.MAJOR} and cannot read newer ones: update the kit"
            )
        if not conn.execute("SELECT 1 FROM pg_extension WHERE extname = 'pg_llm'").fetchone():
            raise KitError(f"database {database} has no extension pg_llm; pg_dump keeps all of it")
        with archive.written(path, replace) as writer, _rights(conn):
            _write(conn, writer, database, say)
    say(f"database {database} is in {path}, {path.stat().st_size / 1e6:,.1f} MB")


def session(conn: psycopg.Connection) -> None:
    """Overrides a database's or role's settings that affect the reading of values; sets no time limits."""
    # Without a function call: the database's owner may have defined one with the same name as PostgreSQL's.
    conn.execute("SET search_path = ''; SET ROLE NONE")
    for name, value in {
        "search_path": "",
        "row_security": "off",
        "client_encoding": "UTF8",
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "extra_float_digits": "1",
        "quote_all_identifiers": "off",
        "synchronize_seqscans": "off",
        "default_transaction_read_only": "off",
    }.items():
        conn.execute("SELECT set_config(%s, %s, false)", [name, value])
    limits = ["statement", "lock", "transaction", "idle_in_transaction_session", "idle_session"]
    query = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY (%s)"
    conn.execute(query, [[f"{limit}_timeout" for limit in limits]])


@contextlib.contextmanager
def _rights(conn: psycopg.Connection):
    """Tells a role that may not see everything who can make the backup: one without some rows is none."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, KitError) as error:
        words = str(error).splitlines()[0]
        if "permission denied" not in words and "row-level security" not in words:
            raise
        raise KitError(
            f"role {conn.info.user} may not read everything: {words}; make the backup as a superuser, "
            "or as a role with pg_read_all_data and BYPASSRLS"
        ) from None


def _write(conn: psycopg.Connection, writer: archive.Writer, database: str, say: Callable) -> None:
    tables = conn.execute(rows.TABLES, [list(reset.DERIVED)]).fetchall()
    sequences = [name for (name,) in conn.execute(SEQUENCES).fetchall()]
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with conn.transaction():
        # Before the snapshot: a table rewritten or truncated after it would look empty to it.
        locked = sql.SQL(", ").join(sql.SQL("ONLY " + name) for name, _, _ in tables)
        conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(locked))
        snapshot = catalog.value(conn, "SELECT pg_export_snapshot()")
        writer.manifest |= {
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **catalog.value(conn, DATABASE),
            "roles": catalog.value(conn, ROLES),
            "relations": conn.execute(RELATIONS).fetchall(),
            "build": catalog.value(conn, alterations.BUILD),
            "facts": alterations.read_facts(conn),
            "needs": conn.execute(alterations.NEEDS).fetchall(),
            "tables": [],
        }
        _say_what_is_not_kept(conn, say)
        excluded = [f"--exclude-table-data={name}" for name in [*(name for name, _, _ in tables), *sequences]]
        with archive.progress("own objects") as shown:
            writer.add(DUMP, _dump(conn, "--snapshot", snapshot, *excluded), shown)
        with archive.progress("rows", sum(size for _, _, size in tables)) as shown:
            for name, tensors, _ in tables:
                writer.manifest["tables"].append(rows.write(conn, writer, name, tensors, shown))
        # Sequences advance outside of snapshots: their values are beyond those of all rows.
        values = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, last_value, is_called FROM {}").format(sql.Literal(name), sql.SQL(name))
            for name in sequences
        )
        writer.manifest["sequences"] = conn.execute(values).fetchall()


def _say_what_is_not_kept(conn: psycopg.Connection, say: Callable) -> None:
    query = "SELECT format('%s.llm_checkpoint', extnamespace::regnamespace) FROM pg_extension "
    table = catalog.value(conn, query + "WHERE extname = 'pg_llm'")
    if catalog.value(conn, "SELECT to_regclass(%s)", [table]):
        query = f"SELECT id, location FROM {table} WHERE location <> 'database' ORDER BY id"
        for number, location in conn.execute(query).fetchall():
            say(f"checkpoint {number} is the file {location}, which is not in the backup")


def _dump(conn: psycopg.Connection, *arguments: str) -> Iterator[bytes]:
    """The output of pg_dump."""
    # It may wait for a session that waits for our locks, to alter a table: that wait would never end.
    options = ["-Fc", "-w", "-E", "UTF8", f"--lock-wait-timeout={LOCK_SECONDS}s", *arguments]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            **clients.command(conn, "pg_dump", *options), stdout=subprocess.PIPE, stderr=errors
        )
        try:
            assert process.stdout
            while block := process.stdout.read(archive.BLOCK):
                yield block
            if process.wait() != 0:
                errors.seek(0)
                raise KitError(" ".join(errors.read().decode(errors="replace").split()))
        finally:
            process.kill()
            process.wait()
