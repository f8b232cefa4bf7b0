"""The extension on PostgreSQL 15, 16 and 18: make install, its own SQL tests, dump and restore."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers.pg_install import PgServer, installed, pg_config_of

pytestmark = pytest.mark.slow

ROWS = {
    "llm_model_config": "SELECT to_jsonb(t) FROM llm_model_config t ORDER BY model",
    "llm_model_version": "SELECT model FROM llm_model_version ORDER BY model",
    "llm_graph": "SELECT * FROM llm_graph ORDER BY model, id",
    # tensor to bytea: the exact bits, not a printed form
    "llm_param": "SELECT model, name, shape(data), md5(data::bytea), md5(m::bytea), step FROM llm_param "
    "ORDER BY model, name",
    "llm_param_share": "SELECT * FROM llm_param_share ORDER BY 1, 2",
    "llm_bpe_vocab": "SELECT * FROM llm_bpe_vocab ORDER BY 1, 2",
    "llm_bpe_merges": "SELECT * FROM llm_bpe_merges ORDER BY 1, 2",
    "llm_bpe_config": "SELECT * FROM llm_bpe_config ORDER BY 1",
    "llm_dataset": "SELECT id, tokens, target, names, md5(tensors[1]::bytea), md5(tensors[2]::bytea) "
    "FROM llm_dataset ORDER BY id",
    "next row": "SELECT last_value FROM llm_dataset_id_seq",
    "next node": "SELECT last_value FROM llm_graph_id_seq",
    # Version numbers only have to be new.
    "versions": "SELECT bool_and(version <= (SELECT last_value FROM llm_version_seq)) FROM llm_model_version",
}


@pytest.fixture(scope="module", params=[15, 16, 18])
def postgres(request, home):
    """A running server of that version with the tree's extension, compiled with -Werror and installed."""
    if pg_config_of(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} with its headers is not on this machine")
    install = installed(request.param)
    server = PgServer(install, home)
    yield server
    server.stop()


def test_regress(postgres):
    """Every file of extension/test/sql gives exactly the output in extension/test/expected."""
    work: Path = postgres.install.work
    command = ["make", "-s", "-C", work, f"PG_CONFIG={postgres.install.bin / 'pg_config'}", "installcheck"]
    done = subprocess.run(
        command, env=postgres.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    differences = work / "test" / "regression.diffs"
    assert done.returncode == 0, done.stdout + (
        differences.read_text()[:20000] if differences.exists() else ""
    )


def test_dump_and_restore_keep_every_weight(postgres, home):
    """pg_dump, custom and plain, into a new database: the same rows and bits, and the model still runs."""
    with postgres.connect() as conn:
        conn.execute("CREATE DATABASE source")
    with postgres.connect("source") as conn:
        conn.execute("CREATE EXTENSION pg_llm")
        fill(conn)
        before = contents(conn)
    dump = home / f"dump{postgres.install.version}"
    dump.mkdir(mode=0o777)
    dump.chmod(0o777)
    postgres.client("pg_dump", "-Fc", "-f", dump / "custom", "source")
    postgres.client("pg_dump", "-f", dump / "plain.sql", "source")
    for name, restore in {
        "from_custom": ("pg_restore", "--exit-on-error", "-d", "from_custom", dump / "custom"),
        "from_plain": ("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump / "plain.sql", "-d", "from_plain"),
    }.items():
        with postgres.connect() as conn:
            conn.execute(f"CREATE DATABASE {name}")
        postgres.client(*restore)
        with postgres.connect(name) as conn:
            assert contents(conn) == before
            again = conn.execute("SELECT md5(llm_logits(ARRAY[1, 2, 3], 'mine')::bytea)").fetchone()
            assert again == before["logits"]


def test_weights_in_memory_once(postgres):
    """Two sessions map one file, and another one after an update."""
    with postgres.connect() as conn:
        conn.execute("CREATE DATABASE shared")
    md5 = "SELECT md5(llm_logits(ARRAY[1, 2, 3], 'm')::bytea)"
    copies = "SELECT count(*) FROM pg_ls_tmpdir() WHERE name LIKE 'pgsql_tmp_pg_llm.%.m%'"
    with postgres.connect("shared") as one, postgres.connect("shared") as two:
        one.execute("CREATE EXTENSION pg_llm")
        one.execute("SELECT llm_create_model('m', 2, 2, 128, 16, 30), llm_init_model('m', 1)")
        results = set()
        for _ in range(3):
            (result,) = one.execute(md5).fetchone()
            assert one.execute(copies).fetchone() == (1,)
            assert two.execute(md5).fetchone() == (result,)
            maps = [Path(f"/proc/{c.info.backend_pid}/maps").read_text() for c in (one, two)]
            used = [[line for line in m.splitlines() if "pgsql_tmp_pg_llm" in line] for m in maps]
            assert [len(lines) for lines in used] == [1, 1] and "(deleted)" not in str(used)
            one.execute("UPDATE llm_param SET data = data + data WHERE name = 'wte.weight'")
            results.add(result)
        assert len(results) == 3 and one.execute(copies).fetchone() == (0,)


def fill(conn):
    """A small model with every kind of row, and a user's table of tensors."""
    conn.execute("SELECT llm_create_model('mine', 2, 2, 8, 16, 30)")
    conn.execute("SELECT llm_init_model('mine', 1)")
    conn.execute("SELECT llm_create_model('shares', 2, 2, 8, 16, 30)")
    conn.execute("SELECT llm_init_model('shares', 2)")
    conn.execute("UPDATE llm_param SET m = data, step = 7 WHERE name = 'wte.weight'")
    conn.execute("INSERT INTO llm_bpe_vocab VALUES ('mine', 0, 'a', 'a', NULL), ('mine', 1, 'b', 'b', NULL)")
    conn.execute("INSERT INTO llm_bpe_merges VALUES ('mine', 0, 'a', 'b')")
    conn.execute("INSERT INTO llm_bpe_config VALUES ('mine', 'cl100k')")
    rows = "('d', '{1,2}', '{2,-1}'), ('d', '{3}', '{4}')"
    conn.execute(f"INSERT INTO llm_dataset (dataset, tokens, target) VALUES {rows}")
    tensors = "ARRAY[randn(ARRAY[3, 9], 1), '7e-40']"
    conn.execute(f"INSERT INTO llm_dataset (names, tensors) VALUES ('{{x,y}}', {tensors})")
    conn.execute("CREATE TABLE own (id int, t tensor(2,3), plain tensor)")
    conn.execute("INSERT INTO own VALUES (1, '[[1,2,3],[4,5,6e-40]]', '[nan, inf, -0]'), (2, NULL, '7')")


def contents(conn) -> dict:
    """Every row that must survive, by relation."""
    rows = {name: conn.execute(query).fetchall() for name, query in ROWS.items()}
    own = "SELECT id, t::text, md5(t::bytea), md5(plain::bytea) FROM own ORDER BY id"
    rows["own"] = conn.execute(own).fetchall()
    kind = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
    kind += "WHERE attrelid = 'own'::regclass AND attname = 't'"
    rows["typmod"] = conn.execute(kind).fetchall()
    rows["logits"] = conn.execute("SELECT md5(llm_logits(ARRAY[1, 2, 3], 'mine')::bytea)").fetchone()
    return rows
