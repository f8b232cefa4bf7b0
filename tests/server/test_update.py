"""ALTER EXTENSION pg_llm UPDATE: an updated database is the same as a new one, and keeps its rows."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from helpers import tiny_model
from helpers.paths import REPO
from psycopg import sql

import pg_llm
from pg_llm import catalog
from pg_llm.backup import update as updates
from pg_llm.build import build_extension
from pg_llm.errors import KitError
from pg_llm.server import binaries, clients, template
from pg_llm.server import database as databases

pytestmark = pytest.mark.slow

OLDER = "0.0.9"  # made up here, so that updates are tested before there are two releases
# What its SQL has in place of this version's, and the statement that brings it there.
CHANGES = [
    (r"(?<=log_id       )bigint", "int", "ALTER TABLE llm_checkpoint ALTER log_id TYPE {0};"),
    (r"CREATE INDEX ON llm_checkpoint \(model, step\);", "", "{0}"),
    (r"COMMENT ON TYPE tensor IS\s+'.*?';", "COMMENT ON TYPE tensor IS 'older';", "{0}"),
    (r"CREATE FUNCTION llm_story_heads\(.*?\$\$;.*?';", "", "{0}"),
    (r"none: an input is data", "older", r"UPDATE llm_op SET gradient = '\text{{{0}}}' WHERE op = 'input';"),
    (r"\Z", "CREATE FUNCTION _llm_old() RETURNS int RETURN 1;\n", "DROP FUNCTION _llm_old();"),
    (r"\Z", "GRANT SELECT ON llm_op TO pg_monitor;\n", "REVOKE SELECT ON llm_op FROM pg_monitor;"),
]


def releases() -> list[str]:
    """The older versions that have a tag v1.2.3 in the repository."""
    if not (shutil.which("git") and (REPO / ".git").exists()):
        return []
    tags = subprocess.check_output(["git", "-C", REPO, "tag", "--list", "v*"], text=True).split()
    return [tag[1:] for tag in tags if tag[1:] != pg_llm.__version__]


def pg_config() -> Path:
    return binaries.server_package() / "pginstall18" / "bin" / "pg_config"


@pytest.fixture(scope="module")
def made_up(home, extension):
    """A function: an installation with the version OLDER, and an update from it that makes some CHANGES."""
    script = (extension / "share" / "extension" / f"pg_llm--{pg_llm.__version__}.sql").read_text()
    older = script
    for pattern, replacement, _ in CHANGES:
        older, n = re.subn(pattern, lambda found, by=replacement: by, older, flags=re.DOTALL)
        assert n == 1, pattern

    def made(changes: list) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="older-", dir=home))
        shutil.copytree(extension, folder, dirs_exist_ok=True)
        share, source = folder / "share" / "extension", folder / "source"
        (share / f"pg_llm--{OLDER}.sql").write_text(older)
        for name in ("Makefile", "pg_llm.control", "sql"):
            copy = shutil.copytree if name == "sql" else shutil.copy2
            source.mkdir(exist_ok=True)
            copy(REPO / "extension" / name, source / name)
        update = source / "sql" / "updates" / f"pg_llm--{OLDER}--{pg_llm.__version__}.sql"
        update.parent.mkdir(exist_ok=True)
        update.write_text("\n".join(s.format(re.search(p, script, re.DOTALL)[0]) for p, _, s in changes))
        subprocess.run(["make", "-s", "-C", source, f"PG_CONFIG={pg_config()}", update.name], check=True)
        shutil.copy2(source / update.name, share)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        return folder

    return made


@contextlib.contextmanager
def session(server, name: str, *installations: Path) -> Iterator[psycopg.Connection]:
    """A superuser's connection that finds the extension in those installations, in this order."""
    with psycopg.connect(**server.start().conninfo(name), autocommit=True) as conn:
        for setting, default, part in (
            ("extension_control_path", "$system", "share"),
            ("dynamic_library_path", "$libdir", "lib"),
        ):
            path = ":".join([default, *(str(folder / part) for folder in installations)])
            conn.execute(sql.SQL("SET {} = {}").format(sql.Identifier(setting), sql.Literal(path)))
        yield conn


@pytest.fixture
def bare(server):
    """A function that creates an empty database and returns its name."""
    made = []

    def create(name: str) -> str:
        with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        made.append(name)
        return name

    yield create
    for name in made:
        databases.drop_database(name)


def facts(conn) -> dict[str, list]:
    """All that CREATE EXTENSION makes: objects with comments and rights as pg_dump sees them, and rows."""
    # Members of an extension are in a dump for pg_upgrade only; the numbers of objects differ, of course.
    dump = subprocess.run(
        **clients.command(conn, "pg_dump", "--binary-upgrade", "--schema-only"),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    numbers = "SELECT pg_catalog.binary_upgrade_(set_next|create_empty)_|WHERE oid =|SET relfrozenxid ="
    other = re.compile(rf"--|\\(un)?restrict|{numbers}")
    found = {"objects": sorted(line for line in dump.splitlines() if not other.match(line))}
    config = (
        "SELECT c::regclass::text, condition FROM pg_extension, unnest(extconfig, extcondition) "
        "AS t (c, condition) WHERE extname = 'pg_llm' ORDER BY 1"
    )
    found["rows of users"] = conn.execute(config).fetchall()
    for (table,) in conn.execute(
        "SELECT c.oid::regclass::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid "
        "WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind = 'r' ORDER BY 1"
    ).fetchall():
        query = f"SELECT to_jsonb(t) - 'version' FROM {table} AS t ORDER BY 1"
        found[table] = [row for (row,) in conn.execute(query)]
    return found


@pytest.fixture(scope="module")
def new(server, extension):
    """The facts of a database made by this version."""
    with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
        conn.execute("CREATE DATABASE update_new TEMPLATE template0")
    with session(server, "update_new", extension) as conn:
        conn.execute("CREATE EXTENSION pg_llm")
        found = facts(conn)
    databases.drop_database("update_new")
    return found


@pytest.fixture(scope="module", params=[OLDER, *releases()])
def older(request, home, extension, made_up):
    """An older version, an installation that has it, and one that has the update from it."""
    if request.param == OLDER:
        installation = made_up(CHANGES)
        return OLDER, installation, installation
    tree = home / request.param
    tree.mkdir()
    archive = subprocess.check_output(["git", "-C", REPO, "archive", f"v{request.param}", "extension"])
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    build_extension.compile_for(tree / "extension", tree / "build", pg_config())
    build_extension.collect(tree / "build", tree / "made")
    return request.param, tree / "made", extension


def test_an_updated_database_is_a_new_one(server, bare, older, new):
    version, old, now = older
    name = bare("update_empty")
    with session(server, name, old) as conn:
        conn.execute(sql.SQL("CREATE EXTENSION pg_llm VERSION {}").format(version))
        assert facts(conn) != new
    with session(server, name, now) as conn:
        conn.execute(sql.SQL("ALTER EXTENSION pg_llm UPDATE TO {}").format(pg_llm.__version__))
        assert facts(conn) == new
        conn.execute("SELECT _llm_check_build(_llm_build())")


def test_an_update_keeps_the_rows(server, bare, older):
    """A trained model with data set, tokenizer, log and checkpoint computes what it computed before."""
    version, old, now = older
    name = bare("update_full")
    tables = ("llm_model_config", "llm_graph", "llm_param", "llm_dataset", "llm_bpe_vocab", "llm_train_log")
    with session(server, name, old) as conn:
        conn.execute(sql.SQL("CREATE EXTENSION pg_llm VERSION {}").format(version))
        # The made-up version has no library of its own.
        disguise = "UPDATE pg_extension SET extversion = %s WHERE extname = 'pg_llm'"
        conn.execute(disguise, [pg_llm.__version__ if version == OLDER else version])
        tiny_model.make(conn, "mine")
        conn.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('mine', '{0,1,2}', '{1,2,3}')"
        )
        conn.execute("SELECT llm_train('mine', 2, warmup => 0, notice_every => 0)")
        before = facts(conn)
        logits = conn.execute("SELECT llm_logits(ARRAY[1, 2], 'mine')::bytea").fetchone()
        conn.execute(disguise, [version])
    with session(server, name, now) as conn:
        conn.execute("ALTER EXTENSION pg_llm UPDATE")
        after = facts(conn)
        assert {table: after[table] for table in tables} == {table: before[table] for table in tables}
        assert conn.execute("SELECT llm_logits(ARRAY[1, 2], 'mine')::bytea").fetchone() == logits
        conn.execute(
            "SELECT llm_train('mine', 1), llm_checkpoint_save('mine', 'after', location => 'database')"
        )


@pytest.mark.parametrize("n", range(len(CHANGES)))
def test_what_an_update_forgets_is_found(server, bare, made_up, new, n):
    installation = made_up(CHANGES[:n] + CHANGES[n + 1 :])
    with session(server, bare("update_forgets"), installation) as conn:
        conn.execute(sql.SQL("CREATE EXTENSION pg_llm VERSION {}").format(OLDER))
        conn.execute("ALTER EXTENSION pg_llm UPDATE")
        assert facts(conn) != new


def test_the_kit_updates_a_database_that_it_opens(server, bare, made_up):
    name, installation = bare("update_opened"), made_up(CHANGES)
    with session(server, name, installation) as conn:
        conn.execute(sql.SQL("CREATE EXTENSION pg_llm VERSION {}").format(OLDER))
        with pytest.warns(UserWarning, match=f"update_opened keeps pg_llm {OLDER}: .*no update path"):
            pg_llm.connect(name).close()
        path = f"$system:{installation / 'share'}"
        conn.execute(f"ALTER DATABASE update_opened SET extension_control_path = '{path}'")
    with pg_llm.connect(name) as conn:
        version = "SELECT extversion FROM pg_extension WHERE extname = 'pg_llm'"
        assert catalog.value(conn, version) == pg_llm.__version__


def test_pg_llm_update_says_what_a_superuser_has_to_do_and_does_it(server, bare, made_up, monkeypatch):
    name, installation = bare("update_by_name"), made_up(CHANGES)
    with session(server, name, installation) as conn:
        conn.execute(sql.SQL("CREATE EXTENSION pg_llm VERSION {}").format(OLDER))
        conn.execute("CREATE TABLE kept AS SELECT tensor '[1,2]' AS data")
        path = f"$system:{installation / 'share'}"
        conn.execute(f"ALTER DATABASE update_by_name SET extension_control_path = '{path}'")
        conn.execute("CREATE ROLE update_pupil LOGIN; ALTER DATABASE update_by_name OWNER TO update_pupil")
        template.write_note(conn, name, {"build": "older", "version": OLDER, "notebook": "/a.ipynb"})
        try:
            info = server.start().conninfo(name)
            where = psycopg.conninfo.make_conninfo(**{**info, "user": "update_pupil"})
            monkeypatch.setenv("PG_LLM_DSN", where)
            with pytest.raises(KitError, match="ask yours for: pg-llm update update_by_name"):
                updates.update(name, force=True)
            build = catalog.value(conn, "SELECT pg_get_functiondef('_llm_build'::regproc)")
            conn.execute("CREATE OR REPLACE FUNCTION _llm_build() RETURNS text RETURN '0.0.9-1'")
            with pytest.raises(KitError, match="Ask a superuser of the server for: pg-llm update update_by"):
                pg_llm.connect()
            conn.execute(build)
            monkeypatch.delenv("PG_LLM_DSN")
            for of_a_student in ({"version": OLDER}, {"version": pg_llm.__version__}):
                template.write_note(conn, name, of_a_student)
                assert (name in updates.outdated()) == (of_a_student["version"] == OLDER)
            template.write_note(conn, name, {"build": "older", "version": OLDER, "notebook": "/a.ipynb"})
            assert name in updates.outdated()
            with pytest.raises(KitError, match="others are connected"):
                updates.update(name)
            assert updates.update(name, force=True)
            assert not updates.update(name) and name not in updates.outdated()
            now = {"build": databases.current_build(), "version": pg_llm.__version__, "notebook": "/a.ipynb"}
            assert template.read_note(conn, name) == now
            assert conn.execute("SELECT tensor_get(data, 0) FROM kept").fetchone() == (1,)
        finally:
            conn.execute("ALTER DATABASE update_by_name OWNER TO postgres; DROP ROLE update_pupil")
    with pytest.raises(KitError, match="made no database postgres"):
        updates.update("postgres")


def test_a_database_of_another_version_is_refused(conn):
    """By every function that reads the extension's tables: what they look like may have changed."""
    tiny_model.make(conn, "mine")
    conn.execute("UPDATE pg_extension SET extversion = '0.0.9' WHERE extname = 'pg_llm'")
    try:
        with pg_llm.server.connect.open_database(conn.info.dbname) as other:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
                other.execute("SELECT llm_logits(ARRAY[1, 2], 'mine')")
    finally:
        conn.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'pg_llm'", [pg_llm.__version__])
    message = f"pg_llm's library is of version {pg_llm.__version__}, the SQL of this database of 0.0.9"
    assert caught.value.diag.message_primary == message
    assert "ALTER EXTENSION pg_llm UPDATE" in caught.value.diag.message_hint


def test_files_of_two_builds_are_refused_before_anything_is_made(server, bare, made_up):
    installation = made_up(CHANGES)
    script = installation / "share" / "extension" / f"pg_llm--{pg_llm.__version__}.sql"
    script.write_text(re.sub(r"(_llm_check_build\(')[^']*", r"\g<1>another", script.read_text()))
    with session(server, bare("update_mixed"), installation) as conn:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
            conn.execute("CREATE EXTENSION pg_llm")
        assert caught.value.diag.message_primary.endswith("the SQL that is installed of another")
        assert "make -C extension install" in caught.value.diag.message_hint
        assert catalog.value(conn, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_llm'") == 0


@pytest.mark.parametrize(("change", "message"), [
    ("CREATE OR REPLACE FUNCTION _llm_build() RETURNS text RETURN '0.1.0-1'", "this database of 0.1.0-1"),
    ("ALTER EXTENSION pg_llm DROP FUNCTION _llm_build(); DROP FUNCTION _llm_build()", "older than version"),
])  # fmt: skip
def test_a_servers_database_of_another_build_is_one_sentence(server, bare, monkeypatch, change, message):
    name = bare("update_elsewhere")
    with psycopg.connect(**server.start().conninfo(name), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pg_llm")
        monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**server.start().conninfo(name)))
        pg_llm.connect().close()
        conn.execute(change)
    with pytest.raises(KitError, match=message) as caught:
        pg_llm.connect()
    assert "\n" not in str(caught.value)


def test_two_builds_of_one_version_on_another_server(server, monkeypatch):
    """`make install` of another build: databases and template are made anew by it, and keep models."""
    monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**server.start().conninfo("postgres")))
    with databases.connect("update_builds") as conn:
        tiny_model.make(conn, "mine")
    other = {"installed": f"{pg_llm.__version__}-older"}
    with databases.maintenance() as conn:
        for name in ("update_builds", template.TEMPLATE):
            template.write_note(conn, name, {**template.read_note(conn, name), **other})
    change = f"CREATE OR REPLACE FUNCTION _llm_build() RETURNS text RETURN '{other['installed']}'"
    try:
        with databases.open_database("update_builds") as conn:
            conn.execute(change.encode())
        with pytest.raises(KitError, match="pg-llm update 'update_builds'") as caught:
            pg_llm.connect("update_builds")
        assert "\n" not in str(caught.value) and "update_builds" in updates.outdated()
        assert updates.update("update_builds", say=lambda text: None)
        with pg_llm.connect("update_builds") as conn:
            assert conn.execute("SELECT count(*) > 5 FROM llm_param WHERE model = 'mine'").fetchone() == (
                True,
            )
            installed = catalog.value(conn, "SHOW pg_llm.build")
            assert catalog.value(conn, "SELECT _llm_build()") == installed != other["installed"]
        assert "update_builds" not in updates.outdated() and not updates.update("update_builds")
        pg_llm.connect(fresh=True).close()  # from a template that was made anew
        with databases.maintenance() as conn:
            assert template.read_note(conn, template.TEMPLATE)["installed"] == installed
    finally:
        databases.drop_database("update_builds")
