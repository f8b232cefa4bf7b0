"""The command pg-llm: every command has help with an example and its place in README; errors are one line."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from unittest import mock

import pytest
from helpers.paths import REPO
from helpers.ports import free_port

from pg_llm.cli import cli
from pg_llm.errors import KitError
from pg_llm.notebook import lab
from pg_llm.server import database as databases
from pg_llm.server import doctor

pytestmark = pytest.mark.slow


def run(*arguments, check=True, **environment):
    """Runs pg-llm as a user would; returns the finished process."""
    where = {**os.environ, "PYTHONPATH": str(REPO), **environment}
    command = [sys.executable, "-m", "pg_llm", *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=where, cwd="/", timeout=300
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_shows_an_example_and_is_in_the_readme(name):
    assert f"Example: pg-llm {name}" in cli.commands[name].help
    assert re.search(rf"\b{name}\b", (REPO / "README.md").read_text())


@pytest.mark.parametrize(
    "options", ["--load --check", "--load --steps 5", "--load --fresh", "--check --steps 5", "--database x"]
)
def test_options_of_classroom_that_contradict_each_other(options, tmp_path):
    done = run("classroom", *options.split(), check=False, PG_LLM_HOME=str(tmp_path / "none"))
    assert done.returncode == 2 and re.search("go with (it|--load)", done.stderr)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_needs_no_server(name, tmp_path):
    done = run(name, "--help", PG_LLM_HOME=str(tmp_path / "none"))
    assert f"Example: pg-llm {name}" in done.stdout
    assert not (tmp_path / "none").exists()


def test_start_status_stop(extension, home):
    own = {"PG_LLM_HOME": str(home / "cli home"), "PG_LLM_EXTENSION": str(extension)}
    stopped = run("status", check=False, **own)
    assert stopped.returncode == 3
    assert "does not run" in stopped.stdout
    assert "PostgreSQL runs (process" in run("start", **own).stdout
    assert run("start", **own).stdout.count("\n") == 1
    running = run("status", **own).stdout
    assert re.search(r"tcp: +none", running)
    assert re.search(r"version: +18", running)
    assert "attention" not in running
    other = run("start", "--port", free_port(), check=False, **own)
    assert "the server already runs without TCP; run 'pg-llm stop' first" in other.stderr  # before a password
    assert run("stop", **own).stdout == "stopped\n"
    assert run("stop", **own).stdout == "no server was running\n"
    port = free_port()
    assert "no terminal to ask for a password" in run("start", "--port", port, check=False, **own).stderr
    run("start", "--port", port, PG_LLM_PASSWORD="a password", **own)
    assert f"TCP: localhost port {port}" in run("start", "--port", port, **own).stdout
    run("stop", **own)


def test_status_tells_of_an_upgrade(extension, home):
    """The kit was upgraded under a running server: older sessions still use the earlier library."""
    copy = home / "upgraded"
    shutil.copytree(extension, copy)
    own = {"PG_LLM_HOME": str(home / "upgrade home"), "PG_LLM_EXTENSION": str(copy)}
    run("start", **own)
    time.sleep(1.1)  # process start times have hundredths, the machine's seconds
    library = next((copy / "lib").iterdir())
    library.write_bytes(library.read_bytes())
    said = run("status", **own).stdout
    run("stop", **own)
    assert "attention:  the extension is newer than the server" in said


def test_psql(server, database):
    query = "SELECT count(*) FROM pg_extension WHERE extname = 'pg_llm'"
    assert run("psql", "-Atc", query).stdout == "1\n"
    assert run("psql", database, "-Atc", "SELECT current_database()").stdout == f"{database}\n"
    missing = run("psql", "no_such_database", check=False)
    assert missing.returncode == 1
    assert missing.stderr == "pg-llm: there is no database no_such_database; 'pg-llm databases' lists them\n"


def test_psql_uses_the_dsn(server, database):
    live = server.start()
    dsn = f"host={live.socket_dir} port={live.port} user=postgres dbname=postgres"
    assert (
        run("psql", database, "-Atc", "SELECT current_database()", PG_LLM_DSN=dsn).stdout == f"{database}\n"
    )
    assert run("psql", "-Atc", "SELECT current_database()", PG_LLM_DSN=dsn).stdout == "postgres\n"
    refused = run("stop", check=False, PG_LLM_DSN=dsn)
    assert refused.returncode == 1
    assert "unset it" in refused.stderr


def test_databases(server, tmp_path):
    """Listed, as a table and as JSON, renamed and dropped."""
    from pg_llm.server import notebooks

    (tmp_path / "of the cli.ipynb").touch()
    name = notebooks.claim(str(tmp_path / "of the cli.ipynb")).database
    line = re.search(rf"^{name} +\d\d MB  \d{{4}}-\d\d-\d\d \d\d:\d\d  (.*)$", run("databases").stdout, re.M)
    assert line and line[1] == str(tmp_path / "of the cli.ipynb")
    listed = {each["database"]: each for each in json.loads(run("databases", "--json").stdout)}
    assert listed[name]["notebook"] == line[1] and listed[name]["sessions"] == 0
    query = ("-Atc", "SELECT current_database()")
    assert run("psql", tmp_path / "of the cli.ipynb", *query).stdout == f"{name}\n"
    assert run("databases", "rename", name, "renamed_by_cli").stdout == f"{name} is renamed_by_cli now\n"
    assert "no terminal to ask" in run("databases", "drop", "renamed_by_cli", check=False).stderr
    for wrong in (("x", "renamed_by_cli", "--yes"), ("x",)):
        assert "made no database x" in run("databases", "drop", *wrong, check=False).stderr
    assert "did you mean renamed_by_cli?" in run("databases", "drop", "renamed_by_cl", check=False).stderr
    assert "comes after --" in run("databases", "drop", "-x", check=False).stderr
    assert "made no database -x" in run("databases", "drop", "--", "-x", check=False).stderr
    file = tmp_path / "of the cli.ipynb"
    assert "would name a notebook" in run("databases", "rename", file, "x.ipynb", check=False).stderr
    assert run("databases", "rename", file, "again").stdout == "renamed_by_cli is again now\n"
    assert run("databases", "drop", file, "again", "again", "--yes").stdout == "dropped: again\n"
    assert "has no database yet" in run("databases", "drop", file, "--yes", check=False).stderr
    assert "of the cli" not in run("databases").stdout


def test_doctor_is_content(server):
    said = run("doctor").stdout
    assert "BAD" not in said
    assert "everything the kit needs is there" in said


def test_doctor_names_what_is_wrong(server, tmp_path):
    sick = run("doctor", check=False, PG_LLM_EXTENSION=str(tmp_path))
    assert sick.returncode == 1
    assert re.search(r"BAD +Compiled extension: .*pip install", sick.stdout)
    lost = run("doctor", check=False, PG_LLM_DSN="host=/nowhere")
    assert lost.returncode == 1
    assert re.search(r"BAD +Server: cannot connect", lost.stdout)


def test_doctor_reads_requirements_with_their_conditions(monkeypatch):
    installed = {"numpy": "1.20", "anywidget": "0.9.13", "click": "8.1.7"}

    def version(name):
        try:
            return installed[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    asked = [
        "anywidget>=0.9,<1",
        "click==8.1.*",
        "tomli>=2; python_version < '3.0'",
        'torch==2.13.0; extra == "bench"',
    ]
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    assert list(doctor._packages()) == ["all there"]
    asked += ["numpy>=1.26", "psycopg[binary]>=3.2,<4; python_version > '3.0'"]
    with pytest.raises(KitError, match=r"psycopg is missing; numpy 1.20 instead of >=1.26; install"):
        list(doctor._packages())


def test_doctor_in_the_server_image(monkeypatch):
    """It has the server's packages alone: nothing is wrong, but one of the others missing is."""
    absent = {*doctor.NOTEBOOK_PACKAGES}

    def version(name):
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "click", *doctor.NOTEBOOK_PACKAGES])
    monkeypatch.setattr(doctor, "SQL_PACKAGES", ("ipython-sql",))
    with pytest.raises(doctor._Attention, match="the notebooks' are not installed"):
        list(doctor._packages())
    absent |= {"click"}
    with pytest.raises(KitError, match="click is missing"):
        list(doctor._packages())
    absent -= {"click", "pandas"}
    with pytest.raises(KitError, match="jupyterlab is missing"):
        list(doctor._packages())


def test_doctor_knows_who_installed_the_package_sql(monkeypatch, tmp_path):
    installed = {"jupysql": "0.11.1"}

    def version(name):
        if name in installed:
            return installed[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: ["ipython-sql==0.5.0"])
    assert list(doctor._packages()) == ["all there"]
    files = {"__init__": "", "magic": "import sql.connection", "connection": "ConnectionManager = None"}
    (tmp_path / "sql").mkdir()
    for name, text in files.items():
        (tmp_path / "sql" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with mock.patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.split(".")[0] == "sql"]:
            del sys.modules[name]
        assert list(doctor._sql_package()) == ["jupysql 0.11.1"]
        installed["ipython-sql"] = "0.5.0"
        both = "ipython-sql 0.5.0 and jupysql 0.11.1"
        assert list(doctor._sql_package()) == [f"{both}, of which jupysql is in use"]
        del sys.modules["sql.magic"]
        (tmp_path / "sql" / "magic.py").write_text("from sql.connection import Connection")
        with pytest.raises(doctor._Attention, match=f"{both} fails .ImportError.*force-reinstall"):
            list(doctor._sql_package())
    installed.clear()
    with pytest.raises(doctor._Attention, match="pip install jupysql"):
        list(doctor._sql_package())
    with pytest.raises(KitError, match="ipython-sql is missing"):
        list(doctor._packages())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nosuch"], 2, "No such command"),
        (["convert", "--source", "/nowhere", "--output", "x.npz"], 1, "/nowhere: no such file or folder"),
        (["download", "gpt2", "--database", "x"], 2, "a database needs --model"),
        (["ingest-tokenizer", "--model", "x"], 2, "name SOURCE, a folder or a tokenizer.json"),
        (["start", "--port", "x"], 2, "not a valid integer"),
        (["start", "--port", "0"], 2, "0 is not in the range 1<=x<=65535"),
        (["start", "--port", "70000"], 2, "not in the range"),
        (["start", "--listen", "*"], 2, "--listen needs --port"),
        (["start", "--port", "5433"], 1, "no terminal to ask for a password: set PG_LLM_PASSWORD"),
        (
            ["ingest-tokenizer", "--model", "", "--vocab", __file__, "--merges", __file__],
            2,
            "--model is empty",
        ),
    ],
)
def test_wrong_use_is_explained(arguments, code, words):
    done = run(*arguments, check=False, PG_LLM_HOME="/nowhere", PG_LLM_PASSWORD="")
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("start", check=False, PG_LLM_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr


def test_ingest_tokenizer(server, database, tmp_path):
    """A tokenizer of four tokens, loaded again; another one of that name only with --truncate."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    live = server.start()
    dsn = f"host={live.socket_dir} port={live.port} user=postgres dbname={database}"
    files = ["--vocab", tmp_path / "vocab.json", "--merges", tmp_path / "merges.txt"]
    command = ["ingest-tokenizer", "--dsn", dsn, "--model", "tiny", *files]
    said = f"tokenizer tiny: 4 tokens, in database {database}\n"
    assert run(*command).stdout == said == run(*command).stdout
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    again = run(*command, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1 and "Replace them with --truncate" in again.stderr
    assert run(*command, "--truncate").stdout == said


def test_commands_work_in_the_database_that_is_named(server, tmp_path):
    """By its name or by its notebook; a database that is not there is not made by a slip of the pen."""
    from pg_llm.server import database as databases
    from pg_llm.server import notebooks

    (tmp_path / "places.ipynb").touch()
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "text.txt").write_text("abab")
    load = ["ingest-tokenizer", "--vocab", tmp_path / "vocab.json", "--merges", tmp_path / "merges.txt"]
    fill = ["prepare-dataset", "--input", tmp_path / "text.txt", "--block-size", "1", "--tokenizer", "one"]
    name = notebooks.claim(str(tmp_path / "places.ipynb")).database
    try:
        for model, option in (("one", "--notebook"), ("two", "--notebook"), ("three", "--database")):
            value = {"one": tmp_path / "places.ipynb", "two": "places", "three": name}[model]
            assert f"in database {name}\n" in run(*load, "--model", model, option, value).stdout
            assert f"in database {name}\n" in run(*fill, "--dataset", model, option, value).stdout
            assert "classroom" in run("classroom", "--load", option, value).stdout
        run("backup", tmp_path / "places.ipynb", tmp_path / "file.backup")
        for option, value, words in [
            ("--database", "nosuch_place", "there is no database nosuch_place; 'pg-llm databases' lists"),
            ("--notebook", "nosuch_place", "notebook nosuch_place has no database yet"),
        ]:
            for command in ([*load, "--model", "x"], fill, ["classroom", "--load"]):
                assert words in run(*command, option, value, check=False).stderr
        assert not databases.database_exists("nosuch_place")
        both = run(*load, "--model", "x", "--database", name, "--notebook", "places", check=False)
        assert both.returncode == 2 and "give one of them" in both.stderr
    finally:
        databases.drop_database(name)


def test_prepare_dataset(server, database, tmp_path):
    """A dataset has rows of one length; a tokenizer that is not there is named with one that is."""
    (tmp_path / "text").write_text("It was spring. " * 20)
    live = server.start()
    dsn = f"host={live.socket_dir} port={live.port} user=postgres dbname={database}"
    command = ["prepare-dataset", "--dsn", dsn, "--input", tmp_path / "text", "--dataset", "lengths"]
    assert "rows of 8," in run(*command, "--block-size", 8).stdout
    longer = run(*command, "--block-size", 16, check=False)
    assert longer.returncode == 1
    assert "has rows of 8 tokens, the new ones would have 16; choose another --dataset" in longer.stderr
    assert "rows of 8," in run(*command, "--block-size", 8).stdout
    assert "rows of 16," in run(*command, "--block-size", 16, "--truncate").stdout
    (tmp_path / "more").write_text("It was summer. ")
    several = ["prepare-dataset", "--dsn", dsn, "--input", tmp_path / "text", tmp_path / "more", "--truncate"]
    assert "dataset default: 2 documents," in run(*several, "--block-size", 4, "--batch-size", 3).stdout
    assert "there is no input" in run(*several[:3], check=False).stderr
    for name, words in (("gpt-2", "did you mean gpt2?"), ("nosuch", "there are classroom, gpt2")):
        missing = run(*command, "--tokenizer", name, check=False)
        assert f"pg-llm: there is no tokenizer {name}; {words}" in missing.stderr
        assert missing.returncode == 1 and missing.stderr.count("\n") == 1


def test_errors_name_the_dsn_option():
    for dsn in ("postgresql://me:secret@localhost:1/class", "host=/nowhere"):
        failed = run("prepare-dataset", "--dsn", dsn, "--input", "-", check=False)
        assert failed.returncode == 1 and "secret" not in failed.stderr
        assert "cannot connect to the server of --dsn" in failed.stderr
        assert dsn.partition("@")[2].partition(":")[0] in failed.stderr


def test_status_of_a_server_that_does_not_answer():
    dead = run("status", check=False, PG_LLM_DSN="postgresql://me:secret@localhost:1/class")
    assert dead.returncode == 3 and "server:" in dead.stdout and "refused" in dead.stdout
    assert run("status", check=False, PG_LLM_DSN="rubbish").returncode == 1


# -- the learner's copy of the notebooks ----------------------------------------


def notebook(*sources, outputs=()):
    cells = [{"cell_type": "code", "source": [s], "outputs": list(outputs)} for s in sources]
    return json.dumps({"cells": cells, "nbformat": 4})


@pytest.fixture
def packaged(tmp_path):
    folder = tmp_path / "packaged"
    folder.mkdir()
    (folder / "00.ipynb").write_text(notebook("one"))
    (folder / "01.ipynb").write_text(notebook("two"))
    return folder


def test_notebooks_are_copied_once(packaged, tmp_path):
    said = []
    mine = lab.update_copy(packaged, tmp_path / "mine", said.append)
    (mine / "01.ipynb").unlink()
    lab.update_copy(packaged, mine, said.append)
    assert (mine / "00.ipynb").exists()
    assert not (mine / "01.ipynb").exists(), "a notebook that was thrown away stays away"
    assert said == []


def test_an_edited_notebook_is_never_overwritten(packaged, tmp_path):
    said = []
    mine = lab.update_copy(packaged, tmp_path / "mine", said.append)
    (mine / "00.ipynb").write_text(notebook("one, my way"))
    (mine / "01.ipynb").write_text(notebook("two", outputs=[{"text": "ran"}]))
    for name in ("00", "01"):
        (packaged / f"{name}.ipynb").write_text(notebook(f"{name}, second edition"))
    lab.update_copy(packaged, mine, said.append)
    assert "my way" in (mine / "00.ipynb").read_text()
    assert "second edition" in (mine / "00.new.ipynb").read_text()
    assert "second edition" in (mine / "01.ipynb").read_text(), "having run it is no change"
    assert said == ["00.ipynb has your changes; the new edition lies beside it as 00.new.ipynb"]
    lab.update_copy(packaged, mine, said.append)
    assert len(said) == 1


def test_notebooks_that_cannot_be_copied(packaged, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cannot be copied"):
        lab.update_copy(packaged, tmp_path / "file" / "mine")
    mine = lab.update_copy(packaged, tmp_path / "mine")
    (mine / lab.MANIFEST).write_text("{")
    with pytest.raises(KitError, match="damaged"):
        lab.update_copy(packaged, mine)


def test_the_command_is_named_by_its_path_where_PATH_does_not_find_it(tmp_path, monkeypatch):
    ours = tmp_path / "environment" / "bin" / "pg-llm"
    ours.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(ours.with_name("python")))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lab.command_name() == "pg-llm", "python -m pg_llm from a folder"
    for place in (ours, tmp_path / "pg-llm"):  # ours, and that of another environment
        place.write_text("#!/bin/sh")
        place.chmod(0o755)
        assert lab.command_name() == str(ours)
    monkeypatch.setenv("PATH", str(ours.parent))
    assert lab.command_name() == "pg-llm"


def test_a_second_new_edition_leaves_what_was_written_into_the_first(packaged, tmp_path):
    mine = lab.update_copy(packaged, tmp_path / "mine", print)
    (mine / "00.ipynb").write_text(notebook("my way"))
    for edition in ("second", "third", "fourth"):
        (packaged / "00.ipynb").write_text(notebook(edition))
        lab.update_copy(packaged, mine, print)
        if edition == "second":
            (mine / "00.new.ipynb").write_text(notebook("second, my way"))
    written = {p.name: json.loads(p.read_text())["cells"][0]["source"][0] for p in mine.glob("00*")}
    assert written == {
        "00.ipynb": "my way", "00.new.ipynb": "second, my way", "00.new2.ipynb": "fourth"
    }  # fmt: skip


def git(folder, *arguments):
    who = ["-c", "user.name=teacher", "-c", "user.email=teacher@localhost"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(packaged, tmp_path, monkeypatch):
    """A learner's clone of a repository with the packaged notebooks, from which the kit seems to run."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    shutil.copytree(packaged, origin / "notebooks")
    (origin / "pg_llm").mkdir()
    for name in ("pyproject.toml", ".gitignore", "pg_llm/__init__.py"):
        shutil.copyfile(REPO / name, origin / name)
    git(origin, "init", "-q")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "first edition")
    git(tmp_path, "clone", "-q", "origin", "clone")
    monkeypatch.setattr(lab, "PACKAGE", clone / "pg_llm")
    monkeypatch.setenv("PG_LLM_HOME", str(tmp_path / "home"))
    return clone


def publish(clone, **cells):
    """Commits notebooks with these cells in the repository that was cloned."""
    origin = clone.with_name("origin")
    for name, cell in cells.items():
        (origin / "notebooks" / f"{name}.ipynb").write_text(notebook(cell))
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "another edition")


def test_answers_in_a_checkout_stop_no_pull(clone):
    """Learners write into a copy that git ignores; a pull brings new notebooks into it."""
    mine = lab.notebooks()
    assert mine == clone / "my_notebooks"
    (mine / "00.ipynb").write_text(notebook("my answer"))
    (mine / "scratch.ipynb").write_text(notebook("my own"))
    assert git(clone, "status", "--porcelain") == ""
    publish(clone, **{"00": "second edition", "02": "a new one"})
    git(clone, "pull", "-q")
    lab.notebooks()
    assert {p.name for p in mine.glob("*.ipynb")} == {
        "00.ipynb", "00.new.ipynb", "01.ipynb", "02.ipynb", "scratch.ipynb"
    }  # fmt: skip
    assert "my answer" in (mine / "00.ipynb").read_text()
    assert "second edition" in (mine / "00.new.ipynb").read_text()


def test_answers_in_the_tracked_notebooks_are_no_edition(clone):
    """Versions before this one opened those: what was written there is copied, and stays after a pull."""
    (clone / "notebooks" / "00.ipynb").write_text(notebook("my answer"))
    mine = lab.notebooks()
    git(clone, "checkout", "-q", "notebooks")
    publish(clone, **{"00": "second edition"})
    git(clone, "pull", "-q")
    lab.notebooks()
    assert "my answer" in (mine / "00.ipynb").read_text()
    assert "second edition" in (mine / "00.new.ipynb").read_text()


def test_a_checkout_that_cannot_be_written(clone, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert lab.notebooks() == tmp_path / "home" / "notebooks"
    assert (tmp_path / "home" / "notebooks" / "00.ipynb").exists()


def test_a_copy_elsewhere(tmp_path):
    """What Jupyter keeps beside the notebooks is not copied."""
    done = run("notebooks", tmp_path / "course")
    assert done.stdout == f"{tmp_path / 'course'}\n"
    copied = {p.relative_to(tmp_path / "course") for p in (tmp_path / "course").rglob("[!.]*.*")}
    assert copied == {p.relative_to(REPO / "notebooks") for p in (REPO / "notebooks").rglob("[!.]*.*")
                      if ".ipynb_checkpoints" not in p.parts and "__pycache__" not in p.parts}  # fmt: skip


@pytest.mark.parametrize("home", ["/nonexistent", None])
def test_jupyterlab_has_a_home_folder(home, tmp_path, monkeypatch):
    """A user id without a name has none, and JupyterLab would not start."""
    for name in ("HOME", "PATH", "JUPYTER_CONFIG_PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # to be restored
    monkeypatch.setenv("PG_LLM_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", home or str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(databases, "connect", lambda: io.StringIO())  # is closed, too
    monkeypatch.setattr(lab, "notebooks", lambda echo, prepare: tmp_path)
    monkeypatch.setattr(os, "execv", lambda *command: None)
    lab.run(print, False, [])
    assert os.environ["HOME"] == str(tmp_path if home else tmp_path / "mine")
