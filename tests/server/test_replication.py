"""Logical replication of a model: changes and deletions arrive, and the copy computes the same."""

import contextlib
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from helpers.tiny_model import logits, make

from pg_llm.server.server import Server

pytestmark = pytest.mark.slow
TABLES = (
    "llm_model_config, llm_graph, llm_param, llm_param_share, llm_bpe_vocab, llm_bpe_merges, llm_bpe_config"
)


@pytest.fixture(scope="module")
def pair(extension):
    """Two databases of a server with wal_level = logical: a publisher and its subscriber."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PG_LLM_EXTENSION", str(extension))
    with tempfile.TemporaryDirectory(prefix="pg_llm-replica-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server = Server(Path(name) / "home")
        with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET wal_level = logical")
            conn.execute("ALTER SYSTEM SET fsync = off")
            conn.execute("CREATE DATABASE source")
            conn.execute("CREATE DATABASE copy")
        server.stop()
        info = server.start().conninfo("source")
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(psycopg.connect(**info, autocommit=True))
            copy = stack.enter_context(psycopg.connect(**{**info, "dbname": "copy"}, autocommit=True))
            for conn in (source, copy):
                conn.execute("CREATE EXTENSION pg_llm; SET client_min_messages = error")
                conn.execute("DELETE FROM llm_model_config")
            from pg_llm.files.adapter import register

            register(source)
            register(copy)
            source.execute(f"CREATE PUBLICATION models FOR TABLE {TABLES}")
            source.execute("SELECT pg_create_logical_replication_slot('models', 'pgoutput')")
            where = psycopg.conninfo.make_conninfo(**info)
            copy.execute(
                f"CREATE SUBSCRIPTION models CONNECTION '{where}' PUBLICATION models "
                "WITH (create_slot = false, slot_name = 'models')"
            )
            yield source, copy
            copy.execute(
                "ALTER SUBSCRIPTION models DISABLE; ALTER SUBSCRIPTION models SET (slot_name = NONE)"
            )
            copy.execute("DROP SUBSCRIPTION models")
            source.execute("SELECT pg_drop_replication_slot('models')")
        server.stop()
    patch.undo()


def arrives(source, copy, seconds=60):
    """Waits until the subscriber has the publisher's current state."""
    weights = "string_agg(data::text, '' ORDER BY model, name)"
    nodes = "string_agg(op || attrs::text || shape::text, '' ORDER BY model, name)"
    state = (
        f"SELECT (SELECT md5({weights}) FROM llm_param), (SELECT md5({nodes}) FROM llm_graph), "
        "(SELECT count(*) FROM llm_bpe_vocab), (SELECT count(*) FROM llm_model_config), "
        "(SELECT count(*) FROM llm_param_share)"
    )
    expected = source.execute(state).fetchone()
    end = time.monotonic() + seconds
    while copy.execute(state).fetchone() != expected:
        assert time.monotonic() < end, "the subscription stopped: see the server's log"
        time.sleep(0.1)


def test_changes_and_deletions_arrive(pair):
    source, copy = pair
    for model in ("m", "gone", "sharer"):
        make(source, model, n_layer=1)
    source.execute("SELECT llm_share_param('m', 'wpe.weight', 'sharer', 'wpe.weight')")
    arrives(source, copy)
    before = logits(copy, "m", [1, 2, 3])
    assert (before == logits(source, "m", [1, 2, 3])).all()
    assert (logits(copy, "sharer", [1, 2]) == logits(source, "sharer", [1, 2])).all()
    # the subscriber has copies in memory, so versions must be raised there, too
    source.execute(
        "UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'm' AND name = 'wpe.weight'"
    )
    source.execute("UPDATE llm_graph SET op = 'relu', attrs = '{}' WHERE model = 'm' AND op = 'gelu'")
    source.execute(
        "DELETE FROM llm_model_config WHERE model = 'gone'; DELETE FROM llm_bpe_vocab WHERE model = 'gone'"
    )
    arrives(source, copy)
    after = logits(copy, "m", [1, 2, 3])
    assert (after == logits(source, "m", [1, 2, 3])).all() and not (after == before).all()
    assert (logits(copy, "sharer", [1, 2]) == logits(source, "sharer", [1, 2])).all()
    with pytest.raises(psycopg.errors.UndefinedObject):
        logits(copy, "gone", [1])
    # removing a layer in several statements, renaming, reinitialising: all in one transaction
    with source.transaction():
        source.execute("SET CONSTRAINTS ALL DEFERRED")
        source.execute("DELETE FROM llm_graph WHERE model = 'm' AND name = 'drop'")
        source.execute(
            "UPDATE llm_graph SET inputs = array_replace(inputs, 'drop', 'embd') WHERE model = 'm'"
        )
        source.execute("UPDATE llm_model_config SET model = 'renamed' WHERE model = 'm'")
    arrives(source, copy)
    assert (logits(copy, "renamed", [1, 2]) == logits(source, "renamed", [1, 2])).all()
    source.execute("DELETE FROM llm_param_share; DELETE FROM llm_model_config; DELETE FROM llm_bpe_vocab")
    arrives(source, copy)
    make(source, "m", n_layer=2, seed=5)
    arrives(source, copy)
    assert (logits(copy, "m", [1, 2]) == logits(source, "m", [1, 2])).all()
