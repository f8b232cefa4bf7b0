"""A class: students are made, listed, reset and removed, whole or not at all, on any server."""

from __future__ import annotations

import csv
import multiprocessing
import os
import stat

import psycopg
import pytest
from click.testing import CliRunner

from pg_llm.cli import cli
from pg_llm.course import handout, roster, store, students
from pg_llm.errors import KitError
from pg_llm.notebook import magic, session
from pg_llm.server import database as databases

QUOTED = """o'Brien "x" \\ {}"""


@pytest.fixture
def admin(server, monkeypatch):
    """A superuser's connection; afterwards no student is left."""
    monkeypatch.setattr(handout, "address", lambda host: (host or "school.example", 5432))
    with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
        yield conn
        students.remove([each.name for each in students.listed()], force=True)


def run(*arguments):
    done = CliRunner().invoke(cli, ["class", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def roles(admin):
    """The roles of the server, but those that every server of the tests may have."""
    query = "SELECT rolname FROM pg_roles WHERE rolname !~ '^(pg_|postgres$|llm_)' ORDER BY 1"
    return {name for (name,) in admin.execute(query)}


def entered(server, name, database=None):
    """A student's connection, over the socket, which asks for no password."""
    info = {**server.start().conninfo(database or name), "user": name}
    return psycopg.connect(**info, autocommit=True)


def test_one_student_from_beginning_to_end(server, admin, tmp_path):
    before = roles(admin)
    file = tmp_path / "class.csv"
    run("add", "ann", "--output", file, "--connections", 3, "--memory", "64MB", "--timeout", "5s")
    (row,) = csv.DictReader(file.open())
    assert row["dsn"] == f"postgresql://ann:{row['password']}@school.example:5432/ann"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert row["dsn"] in file.with_suffix(".html").read_text()
    (ann,) = students.listed()
    assert (ann.name, ann.databases, ann.connections, ann.createdb) == ("ann", ("ann",), 3, False)
    with entered(server, "ann") as conn:
        show = "SELECT current_setting('statement_timeout'), current_setting('pg_llm.memory_limit')"
        assert conn.execute(show).fetchone() == ("5s", "64MB")
        assert conn.execute("SELECT llm_generate('It was', 3, 0)").fetchone()[0].startswith("It was")
        conn.execute("CREATE TABLE mine (i int); SELECT llm_create_model('m', 1, 1, 4, 8, 26)")
        assert conn.execute("SELECT to_regclass('ann.mine') IS NOT NULL").fetchone() == (True,)
        with pytest.raises(KitError, match=r"sessions are open: ann \(1\).*pg-llm class remove --force"):
            students.remove(["ann"])
        assert "1 of 3" in run("list").stdout
        run("remove", "ann", "--yes", "--force")
    assert students.listed() == [] and roles(admin) == before and not databases.database_exists("ann")


def test_the_password_opens_the_door_and_is_in_no_log(server, admin):
    """SCRAM's own check of what the server stores."""
    admin.execute("ALTER SYSTEM SET log_statement = 'all'")
    admin.execute("SELECT pg_reload_conf()")
    try:
        ((_, first),) = students.add(["ann"])
        second = students.password("ann")
    finally:
        admin.execute("ALTER SYSTEM RESET log_statement")
        admin.execute("SELECT pg_reload_conf()")
    stored = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'").fetchone()[0]
    assert fits(second, stored) and not fits(first, stored)
    log = server.log.read_text(errors="replace")
    assert "ALTER ROLE" in log and first not in log and second not in log


def fits(password, stored):
    """True if a SCRAM-SHA-256 verifier is a password's (RFC 5802)."""
    import base64
    import hashlib
    import hmac

    _, iterations_salt, keys = stored.split("$")
    iterations, salt = iterations_salt.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client = hmac.digest(salted, b"Client Key", "sha256")
    return base64.b64encode(hashlib.sha256(client).digest()).decode() == keys.split(":")[0]


@pytest.mark.parametrize("name", [QUOTED, "Åsa 日本", "Capital", "x" * 63, "select", "a@b:c/d?e#f%g"])
def test_any_name(server, admin, name):
    ((made, word),) = students.add([f" {name} "])
    assert made == name
    parts = psycopg.conninfo.conninfo_to_dict(handout.connection_string(name, word, "h", 1))
    assert (parts["user"], parts["password"], parts["dbname"]) == (name, word, name)
    with entered(server, name) as conn:
        conn.execute("CREATE TABLE mine (i int)")
        assert conn.execute("SELECT current_schema").fetchone() == (name,)
    students.reset(name)
    with entered(server, name) as conn:
        assert conn.execute("SELECT to_regclass('mine')").fetchone() == (None,)
    students.remove([name])
    assert students.listed() == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no names"),
        (["ann", ""], "1 to 63 bytes, '' has 0"),
        (["ö" * 32], "has 64"),
        (["a\nb"], "control characters"),
        (["a\0b"], "control characters"),
        (["-a"], "begins with -"),
        (["ann", "Ann"], "ann and Ann differ in capitals only"),
        (["postgres"], "the server's or the kit's own"),
        (["pg_monitor"], "the server's or the kit's own"),
        (["llm_class"], "the server's or the kit's own"),
        (["pg_llm_course"], "the server's or the kit's own"),
        (["new", "old"], "role old exists and is not of this class"),
        (["new", "occupied"], "there is a database occupied already"),
    ],
)
def test_bad_names_make_nobody(admin, names, words):
    admin.execute("CREATE ROLE old")
    admin.execute("CREATE DATABASE occupied")
    before = roles(admin)
    try:
        with pytest.raises(KitError, match=words):
            list(students.add(names))
        assert roles(admin) == before
    finally:
        admin.execute("DROP ROLE old")
        admin.execute("DROP DATABASE occupied")


def test_a_command_can_be_repeated(server, admin, tmp_path):
    file, names = tmp_path / "class.csv", tmp_path / "roster.csv"
    names.write_bytes("Username;Group\nann;1\nBén;2\nann;1\n".encode("utf-8-sig"))
    run("add", "--roster", names, "--output", file)
    first = list(csv.reader(file.open()))
    assert [row[0] for row in first] == ["student", "ann", "Bén"]
    names.write_text("ann\nBén\ncy\n")
    done = run("add", "--roster", names, "--output", file)
    assert "ann is in the class already" in done.stderr
    assert list(csv.reader(file.open()))[:3] == first and handout.read(file).keys() == {"ann", "Bén", "cy"}
    run("password", "ann", "--output", file)
    again = handout.read(file)
    assert again["ann"] != first[1] and again["Bén"] == first[2]
    file.write_text("something else\n")
    with pytest.raises(KitError, match="is no hand-out"):
        run("password", "ann", "--output", file)


@pytest.mark.parametrize(
    "text",
    ["ann\nben\n", "# a class\n\nann, Ann A.\nben, Ben B.\nann\n", "\ufeffann\r\nben\r\n",
     "Group,Student\n1,ann\n2,ben\n", '"name"\t"mail"\n"ann"\t"a@x"\n"ben"\t""\n', "login;x\nann;1\n;2\nben"],
)  # fmt: skip
def test_rosters(text):
    assert roster.read(text) == ["ann", "ben"]


def test_rosters_that_have_no_names(tmp_path):
    for text in ("", "\ufeff", "# only\n", "student,x\n", "student,x\n,1\n"):
        with pytest.raises(KitError, match="has no names"):
            roster.read(text)
    assert roster.read("Family,Mail\nA,ann\n", "mail") == ["ann"]
    with pytest.raises(KitError, match="has no column id; its first line has: family, mail"):
        roster.read("Family,Mail\nA,ann\n", "id")
    file = tmp_path / "latin"
    file.write_bytes("Jörg\n".encode("latin-1"))
    with file.open(encoding="utf-8-sig") as source, pytest.raises(KitError, match="not in UTF-8"):
        roster.read(source)


@pytest.mark.parametrize("step", ["_limit", "_database_for", "_set_password"])
@pytest.mark.parametrize("cleaned", [True, False])
def test_a_failure_leaves_nobody_and_can_be_repeated(server, admin, monkeypatch, step, cleaned):
    """cleaned: the command removes what it began; else it was killed, and the next one does."""
    before = roles(admin)
    with monkeypatch.context() as patch:
        real = getattr(students, step)

        def fails(*arguments):
            if step == "_database_for":
                real(*arguments)
            raise RuntimeError("the power went")

        patch.setattr(students, step, fails)
        if not cleaned:
            patch.setattr(students, "_unmake", lambda *arguments: None)
        with pytest.raises(RuntimeError):
            list(students.add(["ann"]))
    assert students.listed() == []
    assert cleaned == (roles(admin) == before)
    with pytest.raises(psycopg.OperationalError):
        entered(server, "ann", "postgres")
    ((name, _),) = students.add(["ann"])
    with entered(server, name) as conn:
        conn.execute("SELECT llm_generate('It was', 1)")


def test_an_interrupted_remove_is_finished_by_the_next(server, admin, monkeypatch):
    list(students.add(["ann"]))
    with monkeypatch.context() as patch:
        patch.setattr(students, "_drop_database", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            students.remove(["ann"])
    assert students.listed() == []
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        entered(server, "ann")
    students.remove(["ann"])
    assert "ann" not in roles(admin) and not databases.database_exists("ann")
    with pytest.raises(KitError, match="there is no student ann"):
        students.remove(["ann"])


def test_a_reset_that_fails_keeps_the_old_database(server, admin, monkeypatch):
    list(students.add(["ann"]))
    with entered(server, "ann") as conn:
        conn.execute("CREATE TABLE mine (i int)")
        with pytest.raises(KitError, match="pg-llm class reset --force"):
            students.reset("ann")
    with monkeypatch.context() as patch:
        patch.setattr(students, "_drop_database", lambda conn, name: 1 / 0 if name == "ann" else None)
        with pytest.raises(ZeroDivisionError):
            students.reset("ann")
    with entered(server, "ann") as conn:
        conn.execute("INSERT INTO mine VALUES (1)")
        students.reset("ann", force=True)
    with entered(server, "ann") as conn:
        assert conn.execute("SELECT to_regclass('mine')").fetchone() == (None,)
    with entered(server, "ann", "postgres") as conn:
        conn.execute("DROP DATABASE ann")
    assert not students.listed()[0].complete and "not the own one" in run("list").stdout
    students.reset("ann")
    assert students.listed()[0].complete


def test_a_student_who_owns_things_everywhere_is_removed(server, admin):
    list(students.add(["ann", "ben"], students.Limits(createdb=True)))
    with store.connection():
        pass
    with entered(server, "ann", "postgres") as conn:
        conn.execute("CREATE DATABASE second TEMPLATE pg_llm_template IS_TEMPLATE true")
        conn.execute("ALTER DATABASE ann ALLOW_CONNECTIONS false IS_TEMPLATE true")
        conn.execute("SELECT lo_create(0); CREATE TEMP TABLE t (i int)")
        conn.execute("GRANT CONNECT ON DATABASE ann TO ben")
    # What ben grants to ann hangs on ann's role, too, in a database that sets traps for whoever enters it.
    with entered(server, "ben") as conn:
        conn.execute("CREATE TABLE gift (i int); GRANT SELECT ON gift TO ann")
        for trap in ("role = ben", "search_path = ben", "default_transaction_read_only = on",
                     "statement_timeout = '1ms'"):  # fmt: skip
            conn.execute(f"ALTER DATABASE ben SET {trap}")
    students.remove(["ann"], force=True)
    assert [each.name for each in students.listed()] == ["ben"] and "ann" not in roles(admin)
    assert not databases.database_exists("second")
    assert admin.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)


def _add(names, home, extension, out):
    os.environ.update(PG_LLM_HOME=home, PG_LLM_EXTENSION=extension)
    out.put([name for name, _ in students.add(names, say=lambda text: None)])


def test_two_commands_at_once(server, admin):
    context = multiprocessing.get_context("spawn")
    out, names = context.Queue(), ["ann", "ben", "cy"]
    where = (os.environ["PG_LLM_HOME"], os.environ["PG_LLM_EXTENSION"])
    both = [context.Process(target=_add, args=(names, *where, out)) for _ in range(2)]
    for process in both:
        process.start()
    made = sorted(out.get(timeout=60) + out.get(timeout=60))
    for process in both:
        process.join()
    assert made == names == [each.name for each in students.listed()]  # each by one of them, and whole
    assert all(each.complete for each in students.listed())


def test_a_student_who_is_removed_keeps_the_attempts(server, admin):
    list(students.add(["ann"]))
    with store.connection() as course:
        course.execute("DELETE FROM llm_course.attempt")
        course.execute(
            "INSERT INTO llm_course.attempt (student, exercise, score, message, answer) "
            "VALUES ('ann', '1.1', 1, '', '')"
        )
    students.remove(["ann"])
    with store.connection() as course:
        assert course.execute("DELETE FROM llm_course.attempt RETURNING student").fetchall() == [("ann",)]


def test_a_class_that_needs_more_connections_than_there_are(admin):
    said = []
    list(students.add(["ann"], students.Limits(connections=1000), said.append))
    assert "the class may open 1000 connections at once, the server has 197" in said[0]


def test_notebooks_of_a_student_do_not_get_in_each_others_way(server, admin, monkeypatch, capsys):
    """All work in one database: each has a schema for its tables, which a reset empties."""
    list(students.add(["ann"]))
    info = {**server.start().conninfo("ann"), "user": "ann"}
    monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**info))
    monkeypatch.setattr(session, "_current", None)
    monkeypatch.delenv("PGAPPNAME", raising=False)
    for notebook in ("/a/01_one.ipynb", "/a/02 zwei.ipynb"):
        magic._open(notebook)
        opened = session.current()
        opened.conn.execute("CREATE TABLE token (i int); CREATE VIEW pair AS SELECT i FROM token")
        opened.reconnect()
        assert opened.conn.execute("SELECT count(*) FROM pair").fetchone() == (0,)
        assert opened.conn.execute("SELECT llm_generate('It was', 1)").fetchone()
    assert opened.schema == "ann_02_zwei" and opened.database == "ann"
    magic.reset()
    assert "tables of this notebook are gone" in capsys.readouterr().out
    tables = "SELECT schemaname::text FROM pg_tables WHERE tablename = 'token'"
    assert opened.conn.execute(tables).fetchall() == [("ann_01_one",)]
    opened.conn.execute("CREATE TABLE token (i int)")
    opened.conn.close()
    monkeypatch.delenv("PG_LLM_DSN")


def test_a_teacher_who_is_no_superuser(server, admin, monkeypatch):
    """On a server of PG_LLM_DSN, with CREATEROLE and CREATEDB; the template is a superuser's."""
    databases.create_template()
    admin.execute("CREATE ROLE teacher LOGIN CREATEROLE CREATEDB")
    info = {**server.start().conninfo("postgres"), "user": "teacher"}
    try:
        with monkeypatch.context() as patch:
            patch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**info))
            admin.execute("DROP ROLE IF EXISTS llm_class")
            said = []
            names = [name for name, _ in students.add(["ann", "ben"], say=said.append)]
            assert names == ["ann", "ben"] == [each.name for each in students.listed()]
            assert any("GRANT SET ON PARAMETER pg_llm.memory_limit TO teacher" in text for text in said)
            with entered(server, "ann") as conn:
                conn.execute("CREATE TABLE mine (i int)")
                conn.execute("SELECT llm_generate('It was', 1)")
            # The teacher does not stay a member of the student's role, and so owns nothing of it.
            member = "SELECT pg_has_role('teacher', 'ann', 'USAGE')"
            assert admin.execute(member).fetchone() == (False,)
            assert students.password("ann") != students.password("ann")
            students.reset("ann")
            with entered(server, "ann") as conn:
                assert conn.execute("SELECT to_regclass('mine')").fetchone() == (None,)
                assert (
                    conn.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'teacher'").fetchone()
                    is None
                )
            students.remove(["ann", "ben"])
            assert students.listed() == []
            with pytest.raises(KitError, match="only the superuser who owns its tables|no students yet"):
                students.share("lesson")
        admin.execute("ALTER ROLE teacher NOCREATEROLE")
        with monkeypatch.context() as patch:
            patch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**info))
            with pytest.raises(KitError, match="role teacher may not create students: it needs CREATEROLE"):
                list(students.add(["ann"]))
    finally:
        admin.execute("DROP OWNED BY teacher CASCADE")
        admin.execute("DROP ROLE IF EXISTS llm_class")
        admin.execute("DROP ROLE teacher")
