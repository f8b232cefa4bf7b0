"""Fixtures: a server for the test session, a database for each test module, shared test data."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest
from filelock import FileLock
from helpers.paths import REPO, cache_folder


@pytest.fixture(autouse=True)
def no_notebooks_name():
    """A notebook that an earlier test opened in this process does not name the connections of this one."""
    os.environ.pop("PGAPPNAME", None)


@pytest.fixture(scope="session")
def home():
    """A PG_LLM_HOME for the session; under root the server's user must be able to enter it."""
    folder = Path(tempfile.mkdtemp(prefix="pg_llm-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def extension(home):
    """The tree's own extension, compiled for the embedded server: folder with lib/ and share/."""
    if os.environ.get("PG_LLM_EXTENSION"):
        return Path(os.environ["PG_LLM_EXTENSION"])
    from pg_llm.build import build_extension
    from pg_llm.server import binaries

    pg_config = binaries.server_package() / "pginstall18" / "bin" / "pg_config"
    with FileLock(cache_folder() / "test18.lock"):  # pytest -n 2 has two sessions
        work = build_extension.compile_for(REPO / "extension", cache_folder() / "test18", pg_config)
        build_extension.collect(work, home / "extension")
    for path in [home / "extension", *(home / "extension").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home / "extension"


@pytest.fixture(scope="session")
def server(home, extension):
    """The running embedded server, to which PG_LLM_HOME and PG_LLM_EXTENSION direct the tests' programs."""
    from pg_llm.server.server import Server

    patch = pytest.MonkeyPatch()
    patch.setenv("PG_LLM_HOME", str(home))
    patch.setenv("PG_LLM_EXTENSION", str(extension))
    patch.delenv("PG_LLM_DSN", raising=False)
    server = Server()
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
        # The tests' data need not survive a crash of the machine; test_server.py uses the shipped settings.
        conn.execute("ALTER SYSTEM SET fsync = off")
        conn.execute("SELECT pg_reload_conf()")
    yield server
    server.stop()
    _no_crash(server.log)
    patch.undo()


@pytest.fixture(scope="module")
def database(server, request):
    """Name of the module's own database, created from the template, without the shipped models."""
    import pg_llm
    from pg_llm.server import database as databases

    name = "test_" + re.sub(r"\W", "_", request.module.__name__.rpartition(".")[2])[:50]
    databases.drop_database(name)
    databases.create_database(name)
    with pg_llm.connect(name) as connection:
        connection.execute("DELETE FROM llm_model_config WHERE model LIKE 'classroom%'")
    yield name
    databases.drop_database(name)


@pytest.fixture
def conn(database):
    """An autocommit connection to the module's database, with tensors as numpy arrays."""
    import pg_llm

    with pg_llm.connect(database) as connection:
        yield connection


@pytest.fixture
def connect(database):
    """A function that opens another connection to the module's database; all are closed after the test."""
    import pg_llm

    opened = []

    def another():
        opened.append(pg_llm.connect(database))
        return opened[-1]

    yield another
    for connection in opened:
        connection.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of external test data (PG_LLM_SHARED, else the repository's sibling `shared`)."""
    folder = Path(os.environ.get("PG_LLM_SHARED") or REPO.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("the shared test data is not there (PG_LLM_SHARED)")
    return folder


def _no_crash(log: Path) -> None:
    """Checks that no session of the whole test session ended by a signal, expected error or not."""
    # no ".*" before the words: on a statement of a megabyte in the log it would take minutes
    end = re.compile(r"was terminated by signal (?:4|6|7|8|11)\b")
    crashes = [line for line in log.read_text(errors="replace").splitlines() if end.search(line)]
    assert not crashes, f"a server process crashed: {crashes}"
