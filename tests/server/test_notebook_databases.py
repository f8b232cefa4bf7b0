"""Which database belongs to which notebook: two of one name, renamed ones, reserved names, a class."""

from __future__ import annotations

import os
import threading

import psycopg
import pytest

import pg_llm
from pg_llm.backup.backup import backup
from pg_llm.backup.restore import restore
from pg_llm.course import store
from pg_llm.errors import KitError
from pg_llm.server import database as databases
from pg_llm.server import notebooks, template
from pg_llm.server.connect import maintenance, open_database

pytestmark = pytest.mark.slow


@pytest.fixture
def write(server, tmp_path):
    """A function that writes a notebook's file; afterwards the databases of all notebooks are dropped."""

    def write_(name: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        return str(path)

    yield write_
    for each in notebooks.listed():
        if (each.notebook or "").startswith(str(tmp_path)) or each.database.startswith("lesson"):
            databases.drop_database(each.database)


def note(database: str) -> dict:
    with maintenance() as conn:
        return template.read_note(conn, database)


def test_two_notebooks_of_one_name_have_two_databases(write):
    one, two = write("a/lesson.ipynb"), write("b/lesson.ipynb")
    first, second = notebooks.claim(one), notebooks.claim(two)
    assert (first.database, first.known, first.other, first.lost) == ("lesson", False, None, [])
    assert (second.database, second.known, second.other) == ("lesson_2", False, f"belongs to {one}")
    assert [notebooks.claim(path).database for path in (two, one)] == ["lesson_2", "lesson"]
    assert notebooks.claim(one).known
    assert note("lesson")["notebook"] == one


def test_a_path_is_the_same_through_a_link(write, tmp_path):
    path = write("a/lesson.ipynb")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert notebooks.claim(path).database == notebooks.claim(str(tmp_path / "link" / "lesson.ipynb")).database


def test_a_database_without_a_path_goes_to_the_first_notebook_of_its_name(write):
    databases.create_database("lesson")
    first, second = notebooks.claim(write("a/lesson.ipynb")), notebooks.claim(write("b/lesson.ipynb"))
    assert (first.database, first.known) == ("lesson", True)
    assert (second.database, second.known) == ("lesson_2", False)
    assert note("lesson")["build"] == databases.current_build()


def test_a_database_that_the_kit_did_not_make_is_left_alone(write):
    with maintenance() as conn:
        conn.execute("CREATE DATABASE lesson")
        conn.execute("COMMENT ON DATABASE lesson IS 'mine'")
    try:
        claim = notebooks.claim(write("lesson.ipynb"))
        assert (claim.database, claim.known, claim.other) == ("lesson_2", False, "is not the kit's")
        with maintenance() as conn:
            comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'lesson'"
            assert conn.execute(comment).fetchone() == ("mine",)
        with pytest.raises(KitError, match="pg_llm made no database lesson for you"):
            notebooks.adopt("lesson", write("lesson.ipynb"))
    finally:
        databases.drop_database("lesson")


@pytest.mark.parametrize("name", ["postgres", "template0", "template1", "pg_llm", store.DATABASE,
                                  template.TEMPLATE, template.TEMPLATE + "_new"])  # fmt: skip
def test_names_of_the_servers_and_the_kits_databases(write, name):
    claim = notebooks.claim(write(f"{name}.ipynb"))
    assert claim.database == f"notebook_{name}"
    assert notebooks.claim(write(f"{name}.ipynb")).known
    with pytest.raises(KitError, match="kit's own|template's own"):
        notebooks.rename(claim.database, name)


@pytest.mark.parametrize(
    ("name", "database", "seen"),
    [
        ("Übung größe", "Übung_größe", "Ubung gro?e"),
        ("U\u0308bung", "Übung", "Ubung"),
        ("日本語", "日本語", "notebook"),
        ("第1課", "第1課", "?1?"),
        ("🎉", "notebook", "notebook"),
        ("-x", "_x", "-x"),
        ("日" * 80, "日" * 16 + "_06aa788ce00c", "notebook"),
        ("é" * 100, "é" * 25 + "_f42ec48e1e4b", "e" * 100),
        ("a'b\"c%s{0}\n", "a_b_c_s_0_", "a'b\"c%s{0}\n"),
    ],
)
def test_names_in_any_script(write, monkeypatch, name, database, seen):
    path = write(f"{name}.ipynb")
    claim = notebooks.claim(path)
    assert (claim.database, notebooks.application_name(path)) == (database, seen)
    monkeypatch.setenv("PGAPPNAME", notebooks.application_name(path))
    with pg_llm.connect(claim.database) as conn:
        query = (
            "SELECT current_database(), application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        found = conn.execute(query).fetchone()
    assert found == (database, seen[:63].replace("\n", "\\x0a"))
    databases.drop_database(claim.database)


def test_a_renamed_notebook_is_asked_and_adopts(write, tmp_path):
    old = write("a/lesson.ipynb")
    notebooks.claim(old)
    notebooks.claim(write("elsewhere/another lesson.ipynb"))
    os.rename(old, tmp_path / "a" / "lesson two.ipynb")
    claim = notebooks.claim(str(tmp_path / "a" / "lesson two.ipynb"))
    assert claim.database == "lesson_two"
    assert [(each.database, each.notebook) for each in claim.lost] == [("lesson", old)]
    notebooks.adopt("lesson", str(tmp_path / "a" / "lesson two.ipynb"))
    assert notebooks.claim(str(tmp_path / "a" / "lesson two.ipynb")).database == "lesson"
    assert "notebook" not in note("lesson_two")


def test_a_moved_notebook_is_asked(write, tmp_path):
    old = write("a/lesson.ipynb")
    notebooks.claim(old)
    os.remove(old)
    claim = notebooks.claim(write("b/lesson.ipynb"))
    assert (claim.database, [each.database for each in claim.lost]) == ("lesson_2", ["lesson"])
    assert claim.other is None  # the question says it


def test_a_database_is_taken_from_an_existing_notebook_by_force_only(write):
    one, two = write("a/lesson.ipynb"), write("b/lesson.ipynb")
    notebooks.claim(one), notebooks.claim(two)
    with pytest.raises(KitError, match=rf"belongs to {one}, which is still there; .*--force"):
        notebooks.adopt("lesson", two)
    assert note("lesson")["notebook"] == one
    notebooks.adopt("lesson", two, force=True)
    assert notebooks.claim(two).database == "lesson"
    assert notebooks.claim(one).database != "lesson"


def test_a_database_that_a_notebook_left_is_nobody_elses(write):
    one, two, three = (write(f"{folder}/lesson.ipynb") for folder in "abc")
    notebooks.claim(one)
    databases.create_database("lesson_old")
    notebooks.adopt("lesson_old", one)
    claim = notebooks.claim(two)
    assert (claim.database, claim.known, claim.other) == ("lesson_2", False, f"belonged to {one}")
    with pytest.raises(KitError, match="has no database yet"):
        notebooks.database_of(three)
    rows = {each.database: each.row()[3] for each in notebooks.listed()}
    assert (rows["lesson"], rows["lesson_old"]) == (f"left by {one}", one)
    databases.reset("lesson")
    assert notebooks.claim(three).database == "lesson_3"
    notebooks.adopt("lesson", two)  # by its name anybody may have it
    assert notebooks.claim(two).database == "lesson" and "left" not in note("lesson")
    assert note("lesson_2")["left"] == two


def test_many_notebooks_open_at_once(write):
    """The kernels of one notebook get one database, those of two notebooks two."""
    paths, seen = [write("a/lesson.ipynb"), write("b/lesson.ipynb")], []
    threads = [
        threading.Thread(target=lambda path=path: seen.append((path, notebooks.claim(path).database)))
        for path in paths * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 6 and {name for _, name in seen} == {"lesson", "lesson_2"}
    assert len(set(seen)) == 2


def test_a_reset_refuses_while_others_are_connected(write):
    path = write("lesson.ipynb")
    notebooks.claim(path)
    with open_database("lesson") as other:
        other.execute("SET application_name = 'the other one'")
        other.execute("CREATE TABLE theirs ()")
        with pytest.raises(KitError, match=rf"the other one \(process {other.info.backend_pid}\); .*--force"):
            databases.reset("lesson")
        assert other.execute("SELECT to_regclass('theirs') IS NOT NULL").fetchone() == (True,)
        databases.reset("lesson", force=True)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    assert notebooks.claim(path).database == "lesson"
    assert not [each for each in notebooks.listed() if "_new_" in each.database]


def test_a_notebook_that_reconnects_during_a_reset_waits_for_its_end(write, monkeypatch):
    path, threads, drop = write("lesson.ipynb"), [], databases.drop_database
    notebooks.claim(path)

    def dropped(*arguments):
        drop(*arguments)
        threads.append(threading.Thread(target=notebooks.make_again, args=("lesson", path)))
        threads[0].start()
        threads[0].join(1)

    monkeypatch.setattr(databases, "drop_database", dropped)
    try:
        databases.reset("lesson")
    finally:
        monkeypatch.undo()
        threads[0].join()
    assert [each.database for each in notebooks.listed() if each.notebook == path] == ["lesson"]


def test_an_interrupted_reset_leaves_what_it_kept(write, monkeypatch):
    path, drop = write("lesson.ipynb"), databases.drop_database
    notebooks.claim(path)
    with open_database("lesson") as conn:
        conn.execute("CREATE SCHEMA learner CREATE TABLE kept ()")

    def interrupted(*arguments):
        drop(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(databases, "drop_database", interrupted)
    with pytest.raises(KeyboardInterrupt):
        databases.reset("lesson")
    monkeypatch.undo()
    with open_database(notebooks.claim(path).database) as conn:
        assert conn.execute("SELECT to_regclass('learner.kept') IS NOT NULL").fetchone() == (True,)


def test_what_belongs_to_a_notebook_is_listed_dropped_and_renamed(write, tmp_path):
    one, two = write("a/lesson.ipynb"), write("b/lesson.ipynb")
    notebooks.claim(one), notebooks.claim(two)
    os.remove(two)
    rows = {each.database: each for each in notebooks.listed()}
    assert not rows["lesson"].gone and rows["lesson_2"].gone
    assert rows["lesson"].bytes > 1e6 and rows["lesson"].used is not None
    assert rows["lesson_2"].row()[3] == f"{two} (gone)"
    notebooks.rename("lesson", "lesson_first")
    assert notebooks.claim(one).database == "lesson_first"
    for old, new, words in [
        ("nosuch", "x", "made no database nosuch"),
        ("lesson_first", "lesson_2", "is a database lesson_2 already"),
        ("lesson_first", "", "1 to 63 bytes"),
    ]:
        with pytest.raises(KitError, match=words):
            notebooks.rename(old, new)
    with open_database("lesson_2") as other:
        for action in (
            lambda: notebooks.drop(["lesson_first", "lesson_2"]),
            lambda: notebooks.rename("lesson_2", "lesson_3"),
        ):
            with pytest.raises(KitError, match=rf"connected to .* lesson_2: .*{other.info.backend_pid}"):
                action()
        with pytest.raises(KitError, match="made no database postgres"):
            notebooks.drop(["lesson_2", "postgres"], force=True)
        assert {"lesson_first", "lesson_2"} <= {each.database for each in notebooks.listed()}
        notebooks.drop(["lesson_first", "lesson_2"], force=True)
    assert not [each for each in notebooks.listed() if each.database.startswith("lesson")]


def test_a_dropped_database_is_made_again_for_its_notebook(write):
    one, two = write("a/lesson.ipynb"), write("b/lesson.ipynb")
    notebooks.claim(one), notebooks.claim(two)
    databases.drop_database("lesson_2")
    notebooks.make_again("lesson_2", two)
    assert notebooks.claim(two).database == "lesson_2"


def test_a_notebooks_database_by_its_path_or_name(write, monkeypatch, tmp_path):
    one = write("a/lesson.ipynb")
    with pytest.raises(KitError, match="has no database yet"):
        notebooks.database_of(one)
    databases.create_database("lesson_b")
    assert notebooks.database_of("lesson_b.ipynb") == "lesson_b"  # without a path
    notebooks.claim(write("04_lesson_of_today.ipynb"))
    for name in ("4", "04", "04_lesson_of_today", "04_lesson_of_today.ipynb"):
        assert notebooks.database_of(name) == "04_lesson_of_today"
    with pytest.raises(KitError, match="notebook 5 has no database yet"):
        notebooks.database_of("5")
    notebooks.claim(one)
    assert notebooks.database_of(one) == notebooks.database_of("lesson") == "lesson"
    monkeypatch.chdir(tmp_path / "a")
    assert notebooks.database_of("lesson.ipynb") == notebooks.database_of("./lesson.ipynb") == "lesson"
    two = write("b/lesson.ipynb")
    notebooks.claim(two)
    assert notebooks.database_of("lesson.ipynb") == "lesson"  # the one in this folder
    with pytest.raises(KitError, match=f"several .* {one} has lesson; {two} has lesson_2"):
        notebooks.database_of("lesson")
    with pytest.raises(KitError, match="has no database yet"):
        notebooks.database_of("c/lesson.ipynb")


def test_a_restored_copy_does_not_belong_to_the_notebook(write, tmp_path):
    one = write("a/lesson.ipynb")
    notebooks.claim(one)
    backup("lesson", tmp_path / "file", say=print)
    restore(tmp_path / "file", "lesson_again")
    assert "notebook" not in note("lesson_again")
    restore(tmp_path / "file", "lesson", replace=True)
    assert note("lesson")["notebook"] == one


# -- a class on one server ----


@pytest.fixture
def learner(server, monkeypatch):
    """A function that makes PG_LLM_DSN a role's, one of three that may create databases."""
    roles = ("ann", "ann_b", "bob")
    info = server.start().conninfo("postgres")
    with psycopg.connect(**info, autocommit=True) as conn:
        for role in roles:
            conn.execute(f"CREATE ROLE {role} LOGIN CREATEDB")

    def become(role):
        dsn = psycopg.conninfo.make_conninfo(**{**info, "user": role})
        monkeypatch.setenv("PG_LLM_DSN", dsn)

    become("postgres")
    databases.create_template()
    yield become
    monkeypatch.delenv("PG_LLM_DSN")
    with psycopg.connect(**info, autocommit=True) as conn:
        query = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = ANY (%s)"
        for (name,) in conn.execute(query, [list(roles)]).fetchall():
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        for role in roles:
            conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_learners_of_one_server_stay_apart(learner, write):
    """Also with the same path on machines of their own, or names that together are the same."""
    path, other = write("c.ipynb"), write("b_c.ipynb")
    found = []
    for role, notebook in (("ann_b", path), ("ann", other), ("bob", path)):
        learner(role)
        found.append(notebooks.claim(notebook).database)
        with pg_llm.connect(found[-1]) as conn:
            conn.execute("CREATE TABLE mine ()")
        assert [each.database for each in notebooks.listed()] == [found[-1]]
        databases.reset(found[-1])
        assert notebooks.claim(notebook).known
    assert found == ["ann_b_c", "ann_b_c_2", "bob_c"]
    with pytest.raises(KitError, match="made no database ann_b_c for you"):
        notebooks.adopt("ann_b_c", path, force=True)
    with pytest.raises(KitError, match="made no database ann_b_c for you"):
        notebooks.drop(["ann_b_c"], force=True)


def test_a_learners_attempts_are_in_no_notebooks_database(learner, write):
    learner("ann")
    assert notebooks.claim(write("course.ipynb")).database == "notebook_ann_course"
