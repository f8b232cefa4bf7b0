"""pg-llm backup and restore: everything in a database is restored, or nothing is changed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import psycopg
import pytest
from helpers import tiny_model
from helpers.altered import ROLES, contents, fill, same
from helpers.paths import REPO
from helpers.pg_install import PgServer, installed, pg_config_of

import pg_llm
from pg_llm.backup import archive, rows
from pg_llm.backup import backup as backups
from pg_llm.backup.backup import backup
from pg_llm.backup.restore import restore
from pg_llm.errors import KitError
from pg_llm.server import clients, template
from pg_llm.server import database as databases
from pg_llm.server.connect import maintenance, open_database


@pytest.fixture(scope="module")
def roles(server):
    with maintenance() as conn:
        for role in ROLES:
            conn.execute(f'DROP ROLE IF EXISTS "{role}"')
            conn.execute(f'CREATE ROLE "{role}"')
        yield conn
        for (name,) in conn.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'backup%'"
        ).fetchall():
            databases.drop_database(name)
        for role in ROLES:
            conn.execute(f'DROP ROLE "{role}"')


@pytest.fixture(scope="module")
def source(roles):
    """A database with everything in it."""
    databases.create_database("backup_source")
    with open_database("backup_source") as conn:
        fill(conn)
        conn.execute("ALTER DATABASE backup_source SET pg_llm.default_model = 'mine'")
        conn.execute('ALTER DATABASE backup_source SET search_path = "Own Work", "$user", public')
        conn.execute("ALTER ROLE backup_reader IN DATABASE backup_source SET work_mem = '5MB'")
        conn.execute("GRANT CONNECT ON DATABASE backup_source TO backup_reader")
    return "backup_source"


def copy_of(source, name):
    """Another database with the same files."""
    with maintenance() as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
    return name


@pytest.fixture(scope="module")
def file(source, tmp_path_factory):
    """A backup of it."""
    path = tmp_path_factory.mktemp("backup") / "all of it"
    backup(source, path, say=lambda line: None)
    return path


@pytest.mark.slow
def test_round_trip(source, file):
    """Every row, bit and part of a table is restored, and the models give the same results."""
    said = []
    restore(file, "backup_again", say=said.append)
    assert len(said) == 1 and said[0].startswith("database backup_again is what backup_source was at ")
    with open_database(source) as old, open_database("backup_again") as new:
        same(contents(old), contents(new))
        for conn in (old, new):
            conn.execute("SET search_path = public")
        question = "SELECT llm_logits(ARRAY[1, 2, 3])::bytea, llm_default_model()"
        assert old.execute(question).fetchone() == new.execute(question).fetchone()
        versions = new.execute("SELECT max(version) > 0 FROM llm_model_version").fetchone()
        assert versions == (True,)


# -- files that were modified ------------------------------------------------------------


def names() -> list:
    with maintenance() as conn:
        return conn.execute(
            "SELECT datname FROM pg_database WHERE NOT starts_with(datname, 'fresh_') ORDER BY 1"
        ).fetchall()


def refused(path, words):
    before = names()
    with pytest.raises(KitError, match=words):
        restore(path, "backup_refused", say=print)
    assert names() == before


def test_every_truncation_and_every_flipped_byte_is_seen(file, tmp_path):
    whole = file.read_bytes()
    damaged = tmp_path / "damaged"

    def is_seen(content):
        damaged.write_bytes(content)
        with pytest.raises(KitError, match="truncated or damaged|not a backup of pg-llm"):
            archive.Reader(damaged).verify()

    with zipfile.ZipFile(file) as archived:
        headers = [info.header_offset for info in archived.infolist()]
    ends = range(len(whole) - 90, len(whole))  # the end record and the seal
    for place in sorted({*headers, *(at + 12 for at in headers), *ends, *range(0, len(whole), 1999)}):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        is_seen(flipped)
    for end in {*headers, *range(0, len(whole), 9999), len(whole) - 1, len(whole) - archive.SEAL}:
        is_seen(whole[:end])
    is_seen(whole + b"x")
    damaged.write_bytes(whole)
    archive.Reader(damaged).verify()


def rewritten(file, path, change) -> Path:
    """A copy of a backup with another manifest."""
    reader = archive.Reader(file)
    with archive.written(path, replace=False) as writer:
        for name in reader.manifest["members"]:
            writer.add(name, reader.blocks(name), archive.progress("test"))
        writer.manifest = reader.manifest
        change(writer.manifest)
    return path


@pytest.mark.slow
def test_other_files_are_refused(file, tmp_path):
    (tmp_path / "text").write_text("a letter")
    refused(tmp_path / "text", "is not a backup of pg-llm")
    with zipfile.ZipFile(tmp_path / "zip", "w") as other:
        other.writestr("a", "b")
    refused(tmp_path / "zip", "is not a backup of pg-llm")
    refused(tmp_path / "missing", "cannot be read: No such file")
    refused(
        rewritten(file, tmp_path / "newer", lambda manifest: manifest.update(format=archive.FORMAT + 1)),
        "was made by a newer kit",
    )
    refused(rewritten(file, tmp_path / "less", lambda m: m["members"].popitem()), "not those of its manifest")
    refused(rewritten(file, tmp_path / "none", lambda m: m.pop("members")), "truncated or damaged")


def test_names_that_are_taken(source, file, tmp_path):
    for name, words in {
        source: "exists; choose another name",
        "postgres": "cannot be replaced",
        template.TEMPLATE: "template's own",
        "x" * 64: "1 to 63 bytes",
    }.items():
        with pytest.raises(KitError, match=words):
            restore(file, name)
    with pytest.raises(KitError, match="exists; --replace"):
        backup(source, file)
    with pytest.raises(KitError, match="no extension pg_llm"):
        backup("postgres", tmp_path / "none")
    with pytest.raises(KitError, match='database "backup_missing" does not exist'):
        backup("backup_missing", tmp_path / "none")
    with pytest.raises(KitError, match="cannot be written: No such file"):
        backup(source, tmp_path / "no" / "folder")
    assert list(tmp_path.iterdir()) == []


# -- failures leave nothing behind --------------------------------------------------------


def test_roles_must_be_there(file, tmp_path):
    """A missing role is named before anything is created, with advice."""

    def renamed(use):
        def change(manifest):
            manifest["roles"]["gone_role"] = use

        return rewritten(file, tmp_path / f"roles {use}", change)

    refused(renamed("oar"), r"no role gone_role.*CREATE ROLE.*--no-owner --no-acl")
    refused(renamed("o"), r"no role gone_role.*leave out what they own or may do: --no-owner$")
    refused(renamed("r"), r"no role gone_role, which the backup names in policies: create them \(.*\)$")


def test_a_failing_restore_leaves_no_database(file, tmp_path):
    def change(manifest):
        manifest["facts"].append([250, False, "", "something", "SELECT 1 / 0", None])

    refused(rewritten(file, tmp_path / "fails", change), "nothing was changed: something: division by zero")


def test_a_full_disk_leaves_no_file(source, tmp_path):
    """A limit on the size of files simulates a full disk."""
    code = (
        "import resource, sys; from pathlib import Path; from pg_llm.backup.backup import backup\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "backup(sys.argv[1], Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "file"], cwd=REPO, capture_output=True, text=True
    )
    assert "could not be written: File too large; nothing of it is left" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_that_a_role_may_not_see(source, tmp_path, monkeypatch, server):
    """A backup without the rows that a policy hides is refused."""
    where = {**server.start().conninfo(source), "user": "backup_reader"}
    monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**where))
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
        for right, words in {
            "ALTER ROLE backup_reader LOGIN": "permission denied",
            "GRANT pg_read_all_data TO backup_reader": "row-level security policy",
        }.items():
            conn.execute(right)
            with pytest.raises(KitError, match=f"role backup_reader may not read .*{words}.*BYPASSRLS"):
                backup(source, tmp_path / "file")
            assert list(tmp_path.iterdir()) == []
        conn.execute("ALTER ROLE backup_reader BYPASSRLS")
        backup(source, tmp_path / "file")
        with pytest.raises(KitError, match="role backup_reader is no superuser"):
            restore(tmp_path / "file", "backup_never")


def waits(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def seen(pattern):
    """True if pg_stat_activity, read again, contains the pattern."""
    with maintenance() as conn:
        return re.search(
            pattern, str(conn.execute("SELECT application_name, wait_event FROM pg_stat_activity").fetchall())
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(source, file, tmp_path, number):
    """Ctrl-C and kill leave neither file nor database; remains of kill -9 are removed by the next command."""

    def change(manifest):
        manifest["facts"].append([250, False, "", "a long time", "SELECT pg_sleep(600)", None])

    slow = rewritten(file, tmp_path.parent / f"slow {number}", change)
    before = names()
    backs_up = [sys.executable, "-m", "pg_llm", "backup", source, tmp_path / "file"]
    restores = [sys.executable, "-m", "pg_llm", "restore", slow, "backup_slow"]
    with open_database(source) as conn, conn.transaction():
        conn.execute('LOCK TABLE "Own Work".pupil IN ACCESS EXCLUSIVE MODE')  # pg_dump waits for it
        for command, waits_in in (backs_up, "pg_dump"), (restores, "PgSleep"):
            process = subprocess.Popen(
                command,
                cwd=REPO,
                stderr=subprocess.PIPE,
                text=True,
                # a shell's background jobs ignore SIGINT, and so would their children
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            waits(lambda waits_in=waits_in: seen(waits_in))
            process.send_signal(number)
            words = process.communicate()[1]
            if number != signal.SIGKILL:
                assert (process.returncode, words.strip()) == (130, "pg-llm: interrupted")
                assert names() == before and list(tmp_path.iterdir()) == []
    if number == signal.SIGKILL:
        with maintenance() as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            )
        restore(file, "backup_swept")
        assert [name for name in names() if name not in before] == [("backup_swept",)]


# -- more about restoring -----------------------------------------------------------------


@pytest.mark.slow
def test_the_second_round_trip_and_work_that_goes_on(source, file, tmp_path):
    """A restored database is backed up as the same bytes; sequences continue, and so does training."""
    restore(file, "backup_first")
    backup("backup_first", tmp_path / "again")
    restore(tmp_path / "again", "backup_second")
    one, two = (archive.Reader(path).manifest for path in (file, tmp_path / "again"))
    assert one.keys() == two.keys()
    for table in one["tables"]:
        if not any(kind.endswith("[]") for _, kind in table["columns"] if table["format"] == "binary"):
            assert two["members"][table["member"]] == one["members"][table["member"]], table  # no oid in it
    for key in ("facts", "tables", "settings", "owner", "comment", "roles", "build"):
        assert one[key] == two[key], key
    results = []
    for name in ("backup_first", "backup_second", copy_of(source, "backup_copy")):
        with open_database(name) as conn:
            conn.execute("SET search_path = public; SET pg_llm.default_model = 'mine'")
            conn.execute("ALTER EVENT TRIGGER frozen DISABLE")
            insert = (
                "INSERT INTO llm_dataset (tokens, target) VALUES ('{1,2}', '{2,3}') RETURNING id, ser, ident"
            )
            ids = conn.execute(insert).fetchone()
            trained = conn.execute("SELECT llm_train('mine', 2, warmup => 0, notice_every => 0)").fetchone()
            weights = "SELECT name, data::bytea, m::bytea, step, seen FROM llm_param ORDER BY model, name"
            log = "SELECT id, run, step, loss FROM llm_train_log ORDER BY id"
            found = [ids, trained, *(conn.execute(query).fetchall() for query in (weights, log))]
            conn.execute("DELETE FROM llm_graph WHERE name = 'broken'")
            conn.execute("ALTER TABLE llm_graph ENABLE TRIGGER llm_graph_fits")
            found.append(conn.execute("SELECT llm_checkpoint_load('anew', 1)").fetchone())
            found.append(conn.execute("SELECT bool_and(matches) FROM llm_replay('mine', 1)").fetchone())
            results.append(found)
    assert results[0] == results[1] == results[2]
    assert results[0][-1] == (True,)


@pytest.mark.slow
def test_large_rows_are_copied_value_by_value(source, file, tmp_path, monkeypatch):
    """Here rows above 100 bytes are large: most rows of tables with tensors are split, keys or not."""
    monkeypatch.setattr(rows, "LARGE", 100)
    backup(source, tmp_path / "parts")
    parts = {t["name"]: sorted(t["parts"]) for t in archive.Reader(tmp_path / "parts").manifest["tables"]}
    assert len(parts["public.llm_param"]) == 10 and 'odd "name" x' in parts['"Own Work".weights']
    assert "tensors" in parts["public.llm_dataset"]
    assert parts["public.llm_train_log"] == []  # no tensors
    restore(tmp_path / "parts", "backup_parts")
    restore(file, "backup_whole")
    with open_database("backup_parts") as one, open_database("backup_whole") as two:
        same(contents(two), contents(one))


@pytest.mark.slow
def test_replace_ends_sessions_and_keeps_the_old_one_until_the_new_is_there(file, tmp_path):
    databases.create_database("backup_replaced")
    with open_database("backup_replaced") as conn:
        with pytest.raises(KitError, match="division by zero"):

            def change(manifest):
                manifest["facts"].append([250, False, "", "something", "SELECT 1 / 0", None])

            restore(rewritten(file, tmp_path / "fails", change), "backup_replaced", replace=True)
        assert conn.execute("SELECT count(*) FROM llm_dataset").fetchone() == (0,)
        restore(file, "backup_replaced", replace=True)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    with open_database("backup_replaced") as conn:
        assert conn.execute("SELECT count(*) FROM ONLY public.llm_dataset").fetchone() == (4,)
    assert not [name for (name,) in names() if name.endswith("_old")]


@pytest.mark.slow
def test_without_owners_and_grants(file):
    restore(file, "backup_plain", owners=False, grants=False)
    with open_database("backup_plain") as conn:
        owners = conn.execute("SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class").fetchall()
        assert owners == [("postgres",)]
        grants = "SELECT count(*) FROM pg_class WHERE relacl::text LIKE '%ackup%'"
        assert conn.execute(grants).fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM pg_policy").fetchone() == (2,)


@pytest.mark.slow
def test_one_moment_while_another_session_trains(database, tmp_path):
    """Weights, steps and log of the backup are of the same commit."""
    stop = threading.Event()

    def train():
        with pg_llm.connect(database) as conn:
            while not stop.is_set():
                conn.execute(
                    "CALL llm_train_loop('busy', 20, commit_every => 1, resume => false, dropout_p => 0)"
                )

    with pg_llm.connect(database) as conn:
        tiny_model.make(conn, "busy")
        conn.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('busy', '{1,2,3}', '{2,3,4}')"
        )
        thread = threading.Thread(target=train)
        thread.start()
        try:
            last = "SELECT count(*) FROM llm_train_log"
            for i in range(3):
                begin = conn.execute(last).fetchone()
                waits(lambda begin=begin: conn.execute(last).fetchone() > begin)
                backup(database, tmp_path / str(i))
        finally:
            stop.set()
            thread.join()
    for i in range(3):
        restore(tmp_path / str(i), "backup_busy", replace=True)
        with pg_llm.connect("backup_busy") as conn:
            steps = conn.execute("SELECT DISTINCT step FROM llm_param WHERE model = 'busy'").fetchall()
            assert (
                steps == conn.execute("SELECT max(step) FROM llm_train_log WHERE model = 'busy'").fetchall()
            )
            conn.execute("SELECT llm_train('busy', 1, warmup => 0)")


@pytest.mark.slow
def test_a_backup_of_another_build(source, tmp_path):
    """Objects that differ in this build stay, additions are restored, values get their current types."""
    older = copy_of(source, "backup_before")
    with maintenance() as conn:
        template.write_note(conn, older, {"version": "0.0", "build": "older", "pid": 1})
    with open_database(older) as conn:
        conn.execute("SET search_path = public; ALTER EVENT TRIGGER frozen DISABLE")
        conn.execute("CREATE VIEW llm_gone AS SELECT 1; ALTER EXTENSION pg_llm ADD VIEW llm_gone")
        conn.execute("CREATE FUNCTION llm_lost() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        conn.execute("ALTER EXTENSION pg_llm ADD FUNCTION llm_lost; CREATE VIEW loses AS SELECT llm_lost()")
        conn.execute(
            "ALTER TABLE llm_train_log ALTER seconds DROP NOT NULL; UPDATE llm_train_log SET seconds = NULL"
        )
        conn.execute('GRANT SELECT ON llm_gone TO PUBLIC; GRANT SELECT ("?column?") ON llm_gone TO PUBLIC')
        conn.execute("CREATE TABLE llm_before (t tensor, n int); ALTER EXTENSION pg_llm ADD TABLE llm_before")
        conn.execute("INSERT INTO llm_before VALUES ('[1]', 2)")
        conn.execute("ALTER TABLE llm_checkpoint_param ALTER COLUMN name TYPE varchar(90)")
        for view in ("llm_param_row", "llm_param_resolved"):
            conn.execute(f"ALTER EXTENSION pg_llm DROP VIEW {view}; DROP VIEW {view}")
        conn.execute("ALTER TABLE llm_param ALTER COLUMN step TYPE int")
        conn.execute(
            "UPDATE llm_op SET formula = 'older' WHERE op = 'add'; DELETE FROM llm_op WHERE op = 'sub'"
        )
        conn.execute("ALTER EVENT TRIGGER frozen ENABLE")
    said = []
    backup(older, tmp_path / "older", say=said.append)
    restore(tmp_path / "older", "backup_older", say=said.append)
    told = "\n".join(said)
    assert "left as this build of the extension has it: column public.llm_checkpoint_param.name" in told
    assert "the rows of public.llm_train_log are in restored.llm_train_log, they do not fit" in told
    assert "left out: function public.llm_lost() does not exist" in told
    with open_database("backup_older") as conn:
        backups.session(conn)
        conn.execute("SET search_path = public")
        assert conn.execute("SELECT t::text, n FROM llm_before").fetchall() == [("[1]", 2)]
        assert conn.execute("SELECT pg_typeof(step)::text FROM llm_param LIMIT 1").fetchone() == ("bigint",)
        assert conn.execute("SELECT to_regclass('llm_train_log_model_step_idx') IS NOT NULL").fetchone() == (
            True,
        )
        log = "SELECT count(*) FROM restored.llm_train_log WHERE seconds IS NULL"
        assert conn.execute(log).fetchone() == (2,)
        assert conn.execute("SELECT to_regclass('loses') IS NULL").fetchone() == (True,)
        op = "SELECT formula <> 'older', mine FROM llm_op WHERE op IN ('add', 'sub') ORDER BY op"
        assert conn.execute(op).fetchall() == [(True, "first"), (True, None)]
        assert conn.execute("SELECT count(*) FROM llm_param WHERE note = 'seen'").fetchone() == (2,)
        made_by = template.made_by(conn)
    with maintenance() as conn:
        note = template.read_note(conn, "backup_older")
    assert note == {**made_by, "build": databases.current_build()}


@pytest.fixture(scope="module")
def fifteen(home):
    """A server of PostgreSQL 15 with the extension."""
    if pg_config_of(15) is None:
        pytest.skip("PostgreSQL 15 with its headers is not on this machine")
    install = installed(15)
    server = PgServer(install, home)
    yield server
    server.stop()


@pytest.mark.slow
def test_between_postgresql_15_and_18(source, file, fifteen, tmp_path, monkeypatch):
    """From 18 to 15, then to 15 again, then back to 18; a reset keeps the learner's tables on 15, too."""
    with open_database(source) as conn:
        before = contents(conn)
    dsn = f"host={fifteen.sockets} user=postgres dbname=postgres"
    with psycopg.connect(dsn, autocommit=True) as conn:
        for role in ROLES:
            conn.execute(f'CREATE ROLE "{role}"')
    monkeypatch.setenv("PG_LLM_DSN", dsn)
    restore(file, "from_18")
    backup("from_18", tmp_path / "of 15")
    restore(tmp_path / "of 15", "from_15")
    with open_database("from_18") as one, open_database("from_15") as two:
        older = contents(one)
        same(older, contents(two))
    with pg_llm.connect("lesson") as conn:
        conn.execute("CREATE SCHEMA learner; CREATE TABLE learner.own AS SELECT 1 AS a")
    databases.reset("lesson")
    with pg_llm.connect("lesson") as conn:
        assert conn.execute("SELECT a FROM learner.own").fetchall() == [(1,)]
    monkeypatch.delenv("PG_LLM_DSN")
    restore(tmp_path / "of 15", "backup_of_15")
    with open_database("backup_of_15") as conn:
        now = contents(conn)
    for found in (older, now):
        same(before, found, "psql", "pg_dump", "server", "comments")


@pytest.mark.slow
def test_names_of_not_null_constraints(tmp_path, roles):
    """Constraints of their own from PostgreSQL 18 on: named, commented, not valid."""
    databases.create_database("backup_not_null")
    with open_database("backup_not_null") as conn:
        conn.execute("ALTER TABLE llm_graph ADD a int DEFAULT 1 CONSTRAINT named NOT NULL, ADD b int")
        conn.execute("COMMENT ON CONSTRAINT named ON llm_graph IS 'a name'")
        conn.execute("ALTER TABLE llm_graph ADD CONSTRAINT later NOT NULL b NOT VALID")
        backup("backup_not_null", tmp_path / "file")
        before = contents(conn)
    restore(tmp_path / "file", "backup_named")
    with open_database("backup_named") as conn:
        same(before, contents(conn))


@pytest.mark.slow
def test_another_schema_and_encoding(tmp_path, roles):
    with maintenance() as conn:
        encoding = "ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
        conn.execute(f"CREATE DATABASE backup_latin TEMPLATE template0 {encoding}")
    with open_database("backup_latin") as conn:
        conn.execute('CREATE SCHEMA "My LLM"; CREATE EXTENSION pg_llm SCHEMA "My LLM"')
        conn.execute('SET search_path = "My LLM", public')
        conn.execute("SELECT llm_create_model('mäx', 1, 1, 4, 8, 10)")
        conn.execute("SELECT llm_init_model('mäx', 1)")
        conn.execute("ALTER TABLE llm_param ADD \"Nöte\" text DEFAULT 'ü'")
        conn.execute('CREATE TABLE public."T äb" AS SELECT ARRAY[data] AS t, p AS r FROM llm_param p')
        backup("backup_latin", tmp_path / "file")
        before = contents(conn)
    restore(tmp_path / "file", "backup_schema")
    with open_database("backup_schema") as conn:
        same(before, contents(conn))


def test_newer_servers_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "MAJOR", 17)
    with pytest.raises(KitError, match="server is PostgreSQL 18; the kit's pg_dump is of 17"):
        backup(source, tmp_path / "file")


def test_scripts_for_other_servers():
    """Lines that a server rejects are omitted, rows that look like them are not."""
    script = [
        b"SET transaction_timeout = 0;\n",
        b"ALTER TABLE ONLY a ALTER COLUMN b SET (pg_attver=5);\n",
        b"ALTER TABLE ONLY a ALTER COLUMN c SET (n_distinct=3, pg_attver=5);\n",
        b"ALTER TABLE ONLY a ALTER COLUMN d SET (pg_attver=5, n_distinct=3);\n",
        b"COPY a (b) FROM stdin;\n",
        b"SET transaction_timeout = 0;\n",
        b"ALTER x SET (pg_attver=5);\n",
        b"\\.\n",
    ]
    kept = [
        b"ALTER TABLE ONLY a ALTER COLUMN c SET (n_distinct=3);\n",
        b"ALTER TABLE ONLY a ALTER COLUMN d SET (n_distinct=3);\n",
        *script[4:],
    ]
    assert list(clients.suited(script, 150020)) == kept
    assert list(clients.suited(script, 180004)) == [script[0], *kept]


def test_passwords_are_not_on_the_command_line(server):
    where = server.start().conninfo()
    with psycopg.connect(**where, password="hunter2", sslpassword="hunter3") as conn:
        command = clients.command(conn, "pg_dump")
    assert "hunter" not in str(command["args"])
    assert command["env"]["PGPASSWORD"] == "hunter2"


@pytest.mark.slow
def test_the_commands(source, tmp_path):
    """As typed, with odd names of file and database."""
    path = tmp_path / "my file"
    command = [sys.executable, "-m", "pg_llm"]
    done = subprocess.run([*command, "backup", source, path], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"database {source} is in {path}, [\d.,]+ MB\n", done.stdout)
    assert path.stat().st_mode & 0o077 == 0
    done = subprocess.run(
        [*command, "restore", path, 'backup "X" y'], cwd=REPO, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('database backup "X" y is what')
    done = subprocess.run([*command, "restore", path, source], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"pg-llm: database {source} exists; choose another name, or --replace it\n"
