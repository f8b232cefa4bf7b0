"""The saved outputs hold on every PostgreSQL and every instruction set: the same bits, the same pages."""

from __future__ import annotations

import psycopg
import pytest
from helpers.notebooks import NOTEBOOKS, nbval
from helpers.pg_install import PgServer, installed, pg_config_of

import pg_llm

pytestmark = pytest.mark.slow


# Of the notebooks that train, the shorter ones run on one other version, the others nowhere else: tests/model
# compares every kernel on all instruction sets, and test_replay trains on all. The rest runs on one other
# version and on one other instruction set.
VERSIONS, LEVELS = (15, 16), ("scalar", "avx2")
WITHOUT_TRAINING = [p for p in NOTEBOOKS if not "10" <= p.name[:2] <= "16" and p.name[:2] != "18"]
SHORT = [p for p in NOTEBOOKS if p.name[:2] not in ("12", "14", "15", "16", "18")]


@pytest.fixture(scope="module")
def elsewhere(home):
    """A function that gives the DSN of a server of a version with the tree's extension installed."""
    servers = {}

    def dsn(version):
        if version not in servers:
            folder = home / f"notebooks{version}"
            folder.mkdir(mode=0o755)
            servers[version] = PgServer(installed(version), folder)
        return f"host={servers[version].sockets} user=postgres dbname=postgres"

    yield dsn
    for server in servers.values():
        server.stop()


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_another_postgres_gives_the_saved_outputs(elsewhere, path, tmp_path, monkeypatch):
    version = VERSIONS[int(path.name[:2]) % 2]
    if pg_config_of(version) is None:
        pytest.skip(f"PostgreSQL {version} with its headers is not on this machine")
    monkeypatch.setenv("PG_LLM_DSN", elsewhere(version))
    assert not [text for text in nbval(path, tmp_path / "report.xml").values() if text]


@pytest.fixture
def level(server, path):
    """The instruction set of every session of the test, with one thread."""
    isa = LEVELS[int(path.name[:2]) % 2]
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
        conn.execute("LOAD 'pg_llm'")
        try:
            conn.execute(f"SET pg_llm.isa = {isa}")
        except psycopg.errors.InvalidParameterValue:
            pytest.skip(f"this machine has no {isa}")
        conn.execute(f"ALTER ROLE CURRENT_USER SET pg_llm.isa = {isa}")
        conn.execute("ALTER ROLE CURRENT_USER SET pg_llm.threads = 1")
        yield isa
        conn.execute("ALTER ROLE CURRENT_USER RESET ALL")


@pytest.mark.parametrize("path", WITHOUT_TRAINING, ids=lambda path: path.stem)
def test_another_instruction_set_gives_the_saved_outputs(level, path, tmp_path):
    with pg_llm.connect() as conn:
        assert conn.execute("SHOW pg_llm.isa").fetchone() == (level,)
    assert not [text for text in nbval(path, tmp_path / "report.xml").values() if text]
