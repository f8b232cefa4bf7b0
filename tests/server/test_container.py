"""The server image: PostgreSQL in the foreground, a password, the extension in the default database."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import psycopg
import pytest
from helpers.paths import REPO
from helpers.ports import free_port

pytestmark = pytest.mark.slow


def start(home, extension, **environment):
    where = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "POSTGRES"))}
    where |= {
        "PYTHONPATH": str(REPO),
        "PG_LLM_HOME": str(home),
        "PG_LLM_EXTENSION": str(extension),
        **environment,
    }
    command = [sys.executable, "-m", "pg_llm.server.container"]
    return subprocess.Popen(command, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def healthy(port) -> bool:
    command = [sys.executable, "-m", "pg_llm.server.container", "healthy"]
    where = {**os.environ, "PYTHONPATH": str(REPO), "PG_LLM_PORT": str(port)}
    return subprocess.run(command, env=where).returncode == 0


def test_no_password_no_server(home, extension):
    process = start(home / "container", extension)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert said == "pg_llm: set POSTGRES_PASSWORD: docker run -e POSTGRES_PASSWORD=... -p 5432:5432 pg_llm\n"


def test_a_password_file_that_is_none(home, extension, tmp_path):
    for content, words in ((None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "cannot be read")):
        file = tmp_path / "password"
        if content is not None:
            file.write_bytes(content)
        process = start(home / "container", extension, POSTGRES_PASSWORD_FILE=str(file))
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 1
        assert said.startswith(f"pg_llm: POSTGRES_PASSWORD_FILE, {file}, {words}") and said.count("\n") == 1


@pytest.fixture
def port(monkeypatch):
    """The image's port 5432 may be in use on this machine; the program is the same with another port."""
    return free_port()


def test_password_database_and_restart(home, extension, port):
    """A client with the password finds the extension; its data survive a stop and a start."""
    own = {"POSTGRES_PASSWORD": "secret", "POSTGRES_DB": "course", "PG_LLM_PORT": str(port)}
    where = {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "course"}
    assert not healthy(port)
    for round_ in range(2):
        process = start(home / "container", extension, **own)
        for _ in range(600):
            try:
                conn = psycopg.connect(**where, password="secret", autocommit=True)
                break
            except psycopg.OperationalError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.1)
        assert healthy(port)
        if round_ == 0:
            conn.execute("CREATE TABLE kept AS SELECT '[1,2]'::tensor AS t")
        assert conn.execute("SELECT t::text FROM kept").fetchone() == ("[1,2]",)
        conn.close()
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(**where, password="wrong")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0
        assert re.search(rf"database course, user postgres, port {port}", said)
        assert "database system is shut down" in said
