"""pg-llm restore: recreates a database from a backup, under another name until it is complete."""

from __future__ import annotations

import contextlib
import graphlib
import json
import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import psycopg
from psycopg import sql

from pg_llm import catalog
from pg_llm.backup import alterations, archive, rows
from pg_llm.backup.alterations import AFTER_ROWS, BEFORE_ROWS, LAST, Fact
from pg_llm.backup.backup import DUMP, session
from pg_llm.errors import KitError
from pg_llm.server import clients, template
from pg_llm.server import database as databases
from pg_llm.server.connect import maintenance, open_database

# The table whose rows describe the build; from a backup of another build it receives the columns that users
# added.
BUILDS_OWN = "llm_op"
ASIDE = "restored"  # the schema for rows that do not fit
# Settings that are lists of names, kept as SQL.
LISTS = {"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"}
# Entries of a dump that depend on what the other entries create.
LATE = ("EVENT TRIGGER ", "MATERIALIZED VIEW DATA ")
UTF8 = {"encoding": "utf-8", "errors": "surrogateescape"}  # of names in a dump
ENTRY = re.compile(r"\d+; (\d+) (\d+) (.*)")

PARENTS = f"""
WITH {alterations.MEMBER} SELECT DISTINCT conrelid::regclass::text, confrelid::regclass::text
FROM pg_constraint JOIN member ON rel = conrelid WHERE contype = 'f' AND conrelid <> confrelid
"""
CHECKS = f"""
WITH {alterations.MEMBER} SELECT format('state of trigger %I of %s', tgname, name),
    format('ALTER TABLE %s DISABLE TRIGGER %I', name, tgname)
FROM pg_trigger JOIN member ON rel = tgrelid WHERE tgconstraint <> 0 AND NOT tgisinternal
"""


def restore(
    path: Path,
    database: str,
    replace: bool = False,
    owners: bool = True,
    grants: bool = True,
    say: Callable = print,
) -> None:
    """Creates a database of that name from a backup; replace: in place of an existing one, once complete.

    owners: restores the owners of objects; grants: restores the roles' rights and settings.
    Errors: KitError, and the server is as it was. Example: restore(Path("lesson.backup"), "lesson_again")
    """
    reader = archive.Reader(path)
    with contextlib.closing(reader), contextlib.closing(maintenance()) as server:
        reader.verify()
        _check_server(server, database, replace)
        _check_roles(server, reader.manifest, owners, grants)
        databases.sweep()
        building = databases.FRESH + uuid.uuid4().hex[:12]
        try:
            with template.explained(server):
                _create(server, building, reader.manifest, say)
            with contextlib.closing(open_database(building)) as conn:
                note = _Filling(conn, reader, owners, grants, say).run()
            replaced = template.read_note(server, database)
            note |= {k: v for k, v in replaced.items() if k in template.OF_NOTEBOOK}
            _describe(server, building, reader.manifest, note, owners, grants, say)
            aside = _take_name(server, building, database)
        except BaseException as error:
            databases.drop_quietly(building)
            if isinstance(error, psycopg.Error | OSError):
                words = isinstance(error, psycopg.Error) and error.diag.message_primary or str(error)
                raise KitError(f"{path} could not be restored, nothing was changed: {words}") from error
            raise
        if aside:
            databases.drop_database(aside)
    was = reader.manifest["database"]["datname"]
    say(f"database {database} is what {was} was at {reader.manifest['made']}")


# -- before anything is changed ------------------------------------------------------------


def _check_server(server: psycopg.Connection, database: str, replace: bool) -> None:
    databases.check_name(database)
    template.current_build()  # raises an error if the server has no extension to restore
    if not catalog.value(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        raise KitError(
            f"role {server.info.user} is no superuser, and only superusers may create the extension: "
            "ask one to restore the backup"
        )
    system = database == server.info.dbname or database in ("postgres", "template0", "template1")
    if template.exists(server, database) and (system or not replace):
        raise KitError(
            f"database {database} cannot be replaced, choose another name"
            if system
            else f"database {database} exists; choose another name, or --replace it"
        )


def _check_roles(server: psycopg.Connection, manifest: dict, owners: bool, grants: bool) -> None:
    """Roles belong to the server, not to the database: those named in the backup must exist."""
    left_out = ("" if owners else "o") + ("" if grants else "ais")
    wanted = [role for role, uses in manifest["roles"].items() if set(uses) - set(left_out)]
    there = {role for (role,) in server.execute("SELECT rolname FROM pg_roles").fetchall()}
    missing = sorted(set(wanted) - there)
    if missing:
        uses = {use for role in missing for use in manifest["roles"][role]} - set(left_out)
        options = [*["--no-owner"] * ("o" in uses), *["--no-acl"] * bool(uses & set("ais"))]
        raise KitError(
            f"the server has no role {', '.join(missing)}, which the backup names"
            f"{' in policies' * (uses == {'r'})}: create them (pg-llm psql -c 'CREATE ROLE ...')"
            + (f", or leave out what they own or may do: {' '.join(options)}" if options else "")
        )


def _take_name(server: psycopg.Connection, building: str, database: str) -> str | None:
    """Renames the complete database; one of that name is disconnected and renamed to the name returned."""
    new, name, aside = map(sql.Identifier, (building, database, building + "_old"))
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    if not template.exists(server, database):
        server.execute(rename.format(new, name))
        return None
    admit = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    server.execute(admit.format(name, sql.SQL("false")))
    try:
        end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        server.execute(end, [database])
        with server.transaction():
            server.execute(rename.format(name, aside))
            server.execute(rename.format(new, name))
    except BaseException:
        server.execute(admit.format(name, sql.SQL("true")))
        raise
    return building + "_old"


# -- the database itself -------------------------------------------------------------------


def _create(server: psycopg.Connection, building: str, manifest: dict, say: Callable) -> None:
    """Creates an empty database with the backup's encoding and, if the server has it, its locale."""
    facts = manifest["database"]
    provider = {"c": "libc", "i": "icu", "b": "builtin"}[facts["datlocprovider"]]
    locale = facts.get("datlocale") or facts.get("daticulocale")
    literal = sql.Literal
    exact = sql.SQL("LOCALE_PROVIDER {} LC_COLLATE {} LC_CTYPE {}").format(
        sql.SQL(provider), literal(facts["datcollate"]), literal(facts["datctype"])
    )
    if locale:
        exact += sql.SQL(" {}_LOCALE {}").format(sql.SQL(provider.upper()), literal(locale))
    choices = [exact, *(sql.SQL(f"LOCALE_PROVIDER libc LOCALE '{name}'") for name in ("C.UTF-8", "C"))]
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} ").format(
        sql.Identifier(building), literal(manifest["encoding"])
    )
    for choice in choices:
        try:
            server.execute(create + choice)
            break
        except (psycopg.errors.InsufficientPrivilege, psycopg.OperationalError):
            raise  # no rights, a full disk: the locale is not the cause
        except psycopg.Error:
            if choice is choices[-1]:
                raise
    if choice is not exact:
        say(
            f"the server has no locale {locale or facts['datcollate']} ({provider}): text sorts by code point"
        )
    template.write_note(server, building, {"pid": os.getpid()})  # removed later if this program is killed


def _describe(
    server: psycopg.Connection,
    building: str,
    manifest: dict,
    note: dict,
    owners: bool,
    grants: bool,
    say: Callable,
) -> None:
    """Restores the properties of the database itself: settings, rights, limit, owner, comment."""
    database = sql.Identifier(building)
    for role, settings in manifest["settings"] or []:
        if role and not grants:
            continue
        where = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), database) if role else None
        for setting in settings:
            name, _, value = setting.partition("=")
            change = sql.SQL("ALTER {} SET {} TO {}").format(
                where or sql.SQL("DATABASE {}").format(database),
                sql.Identifier(*name.split(".")),
                sql.SQL(", ").join(map(sql.Literal, _elements(value) if name in LISTS else [value])),
            )
            try:
                server.execute(change)
            except psycopg.Error as error:  # of another version, or rejected by this server
                say(f"not set: {setting} ({error.diag.message_primary})")
    statements = []
    if grants and manifest["acl"] is not None:
        statements.append(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        for role, privilege, grantable in manifest["acl"]:
            grant = sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
                sql.SQL(privilege), database, sql.Identifier(role) if role else sql.SQL("PUBLIC")
            )
            statements.append(grant + sql.SQL(" WITH GRANT OPTION" if grantable else ""))
    if owners:
        owner = sql.Identifier(manifest["owner"])
        statements.append(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, owner))
    limit = sql.Literal(manifest["database"]["datconnlimit"])
    statements.append(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, limit))
    comment = json.dumps({"pg_llm": note}) if note else manifest["comment"]
    statements.append(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(comment)))
    for statement in statements:
        server.execute(statement)


def _elements(value: str) -> list[str]:
    """The names in the value of a setting that is a list: `"$user", public`."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^\s,]+)', value)
    return [bare or quoted.replace('""', '"') for quoted, bare in found]


def _named(entry: str) -> str:
    """The kind and name of an entry in pg_restore's list."""
    found = ENTRY.match(entry)
    return found[3] if found else ""


# -- contents -------------------------------------------------------------------------


class _Filling:
    """Loads a backup's contents into an empty database."""

    def __init__(
        self, conn: psycopg.Connection, reader: archive.Reader, owners: bool, grants: bool, say: Callable
    ):
        self.conn, self.reader, self.manifest, self.say = conn, reader, reader.manifest, say
        self.owners, self.grants = owners, grants
        self.same = True  # same build of the extension, as far as known
        self.gone: set[str] = set()  # relations that only the backup's build had
        self.builds_own: list[str] = []  # columns of llm_op

    def run(self) -> dict:
        """Restores everything in the order of its dependencies; returns the kit's note on the database."""
        session(self.conn)
        with tempfile.TemporaryDirectory() as folder:
            self.dump = Path(folder, DUMP)
            with self.dump.open("wb") as file:
                file.writelines(self.reader.blocks(DUMP))
            needed, rest, late = self._entries()
            # Columns may depend on types and functions of the users, whose views may depend on the columns.
            self._script(needed)
            self.same = catalog.value(self.conn, alterations.BUILD) == self.manifest["build"]
            query = "SELECT format('%s.llm_op', extnamespace::regnamespace) FROM pg_extension "
            table = catalog.value(self.conn, query + "WHERE extname = 'pg_llm'")
            self.builds_own = list(rows.types_of(self.conn, table))
            here = alterations.read_facts(self.conn)
            theirs = [Fact(*fact) for fact in self.manifest["facts"]]
            theirs = [f for f in theirs if self.owners or f.place != alterations.OWNER]
            todo = alterations.changes(theirs, here, self.same)
            self._make(todo.make, 0, BEFORE_ROWS)
            rest = self._without_gone(rest)
            self._script(rest, "--section=pre-data")
            for statement in todo.undo:
                self.conn.execute(statement)
            self._make(todo.make, BEFORE_ROWS, AFTER_ROWS)
            self._rows({fact.what: fact.make for fact in here})
            self._make(todo.make, AFTER_ROWS, LAST)
            self._script(rest, "--section=data", "--section=post-data")
            self._make(todo.make, LAST, LAST + 100)
            self._script(late)
            self.conn.execute("ANALYZE")
        if todo.left:
            more = f" and {len(todo.left) - 5} more" * (len(todo.left) > 5)
            self.say(f"left as this build of the extension has it: {', '.join(todo.left[:5])}{more}")
        note = template.parse_note(self.manifest["comment"])
        now = {**template.made_by(self.conn), **template.build_facts(self.conn)}
        elsewhere = {"pid", *template.OF_NOTEBOOK}
        return {k: v for k, v in {**note, **now}.items() if k not in elsewhere} if note else {}

    def _make(self, facts: Iterable[Fact], begin: int, end: int) -> None:
        for fact in facts:
            if begin <= fact.place < end and fact.rel not in self.gone:
                try:
                    self.conn.execute(fact.make)
                except psycopg.Error as error:
                    self._cannot(fact.what, error.sqlstate or "", error.diag.message_primary or str(error))

    def _cannot(self, what: str, state: str, words: str) -> None:
        """Tolerates an error about a part that only the backup's build had (class 42), and reports it."""
        if self.same or not state.startswith("42"):
            what = f"{what}: {words}" if what else words
            raise KitError(f"{self.reader.path} could not be restored, nothing was changed: {what}")
        self.say(f"left out: {words}")

    def _entries(self) -> tuple[list[str], list[str], list[str]]:
        """The dump's entries: those that the extension's columns need, the others, and the last ones."""
        command = [clients.program("pg_restore"), "-l", str(self.dump)]
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode(**UTF8).splitlines()
        needs = {tuple(need) for need in self.manifest["needs"]}
        needed: list[str] = []
        rest: list[str] = []
        for line in listed:
            if entry := ENTRY.match(line):
                kind = entry[3].startswith(("SCHEMA ", "EXTENSION ", "SHELL TYPE "))
                (needed if kind or (int(entry[1]), int(entry[2])) in needs else rest).append(line)
        late = next((i for i, line in enumerate(rest) if _named(line).startswith(LATE)), len(rest))
        return needed, rest[:late], rest[late:]

    def _without_gone(self, entries: list[str]) -> list[str]:
        """Finds views that only the backup's build of the extension had, and omits the rights on them."""
        grants = []
        for relation, schema, name in self.manifest["relations"]:
            if catalog.value(self.conn, "SELECT to_regclass(%s) IS NULL", [relation]):
                self.gone.add(relation)
                grants += [f"ACL {schema} TABLE {name} ", f"ACL {schema} COLUMN {name}."]
        return [line for line in entries if not _named(line).startswith(tuple(grants))]

    def _script(self, entries: list[str], *options: str) -> None:
        """Runs entries of the dump."""
        if not entries:
            return
        listed = self.dump.with_name("entries")
        listed.write_text("\n".join(entries) + "\n", **UTF8)
        options += ("--no-owner",) * (not self.owners) + ("--no-acl",) * (not self.grants)
        source = [clients.program("pg_restore"), "-f", "-", "-L", str(listed), "--no-tablespaces", *options]
        variables = f"--set=ON_ERROR_STOP={int(self.same)}", "--set=VERBOSITY=verbose"
        target = clients.command(self.conn, "psql", "-X", "-q", "-w", *variables)
        with tempfile.TemporaryFile() as errors, archive.progress("own objects") as shown:
            reads = subprocess.Popen([*source, str(self.dump)], stdout=subprocess.PIPE, stderr=errors)
            runs = subprocess.Popen(**target, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
            try:
                assert reads.stdout and runs.stdin
                with contextlib.suppress(BrokenPipeError), runs.stdin:
                    for line in clients.suited(reads.stdout, self.conn.info.server_version):
                        runs.stdin.write(line)
                        shown.update(len(line))
                failed = runs.wait() or reads.wait()
            finally:
                for process in (reads, runs):
                    process.kill()
                    process.wait()
            errors.seek(0)
            words = errors.read().decode(errors="replace")
        for state, message in re.findall(r"^(?:psql:.*?)?ERROR: +(\w{5}): (.*)", words, re.MULTILINE):
            self._cannot("", state, message)
        if failed:
            self._cannot("", "", " ".join(words.split()))

    # -- rows ----------------------------------------

    def _rows(self, here: dict[str, str]) -> None:
        """Loads the rows of all tables, referenced tables first, in one transaction.

        Constraint triggers are off: the rows were consistent in their source. The other triggers raise the
        models' versions beyond those that the backup's sequence had assigned.
        """
        tables = {table["name"]: table for table in self.manifest["tables"]}
        order = graphlib.TopologicalSorter({name: () for name in tables})
        for child, parent in self.conn.execute(PARENTS).fetchall():
            order.add(child, parent)
        names = [name for name in order.static_order() if name in tables]
        kept = [name for name in names if not self.same and name.rpartition(".")[2] == BUILDS_OWN]
        size = sum(fact["size"] for name, fact in self.manifest["members"].items() if name != DUMP)
        with self.conn.transaction(), archive.progress("rows", size) as shown:
            for name, last, called in self.manifest["sequences"]:
                query = "SELECT setval(s, %s, %s) FROM to_regclass(%s) AS s WHERE s IS NOT NULL"
                self.conn.execute(query, [last, called, name])
            checks = self.conn.execute(CHECKS).fetchall()
            for _, rest in checks:
                self.conn.execute(rest)
            for name in reversed(names):
                if name not in kept:
                    self.conn.execute(sql.SQL("DELETE FROM ONLY {}").format(sql.SQL(name)))
            for name in names:
                added = [c for c, _ in tables[name]["columns"] if c not in self.builds_own]
                if name not in kept:
                    self._table(tables[name], shown)
                elif added:
                    rows.read_columns(self.conn, self.reader, tables[name], added, shown)
            for what, _ in checks:
                self.conn.execute(here[what])

    def _table(self, entry: dict, shown) -> None:
        """Loads the rows of a table, or keeps them in a separate one if they do not fit this build's."""
        try:
            with self.conn.transaction():
                rows.read(self.conn, self.reader, entry, entry["name"], shown)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            aside = f"{ASIDE}.{entry['name'].rpartition('.')[2]}"
            self.conn.execute(f"CREATE SCHEMA IF NOT EXISTS {ASIDE}")
            rows.read_aside(self.conn, self.reader, entry, aside, shown)
            words = error.diag.message_primary
            self.say(
                f"the rows of {entry['name']} are in {aside}, they do not fit the table as it is: {words}"
            )
