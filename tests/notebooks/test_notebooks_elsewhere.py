"""The saved outputs hold on every PostgreSQL and every instruction set: the same bits, the same pages."""

from __future__ import annotations

import pytest
from helpers.notebooks import named, nbval
from helpers.pg_install import PgServer, installed, pg_config_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[15, 16])
def elsewhere(request, home):
    """DSN of a server of that version with the tree's extension installed."""
    if pg_config_of(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} with its headers is not on this machine")
    install = installed(request.param)
    folder = home / f"notebooks{request.param}"
    folder.mkdir(mode=0o755)
    server = PgServer(install, folder)
    yield f"host={server.sockets} user=postgres dbname=postgres"
    server.stop()


@named
def test_another_postgres_gives_the_saved_outputs(elsewhere, path, tmp_path, monkeypatch):
    monkeypatch.setenv("PG_LLM_DSN", elsewhere)
    assert not [text for text in nbval(path, tmp_path / "report.xml").values() if text]


@named
@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_another_instruction_set_gives_the_saved_outputs(server, path, isa, tmp_path, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", f"-c pg_llm.isa={isa} -c pg_llm.threads=1")
    import pg_llm
    from pg_llm import classroom

    if isa == "scalar" and path.name.startswith(("10_",) if classroom.shipped() else ("04_", "08_", "10_")):
        pytest.skip("plain C needs ten minutes to train its model; test_replay trains on every level")

    try:
        with pg_llm.connect() as conn:
            assert conn.execute("SHOW pg_llm.isa").fetchone() == (isa,)
    except pg_llm.KitError:
        pytest.skip(f"this machine has no {isa}")
    assert not [text for text in nbval(path, tmp_path / "report.xml").values() if text]
