"""Export of checkpoints, pg-llm convert, HuggingFace's own files, and rights and transactions."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoint_files import (
    CONFIG,
    WAYS,
    by_path,
    config_of,
    gpt2,
    nothing_left,
    over_connection,
    same,
    stored,
    visible,
    write_safetensors,
)
from psycopg.rows import dict_row

import pg_llm
from pg_llm.files.checkpoint import CheckpointError
from pg_llm.files.convert import convert

pytestmark = pytest.mark.slow

folder = checkpoint_files.folder
model = checkpoint_files.model


# ---- paths, rights, transactions ----


@pytest.fixture
def role(conn):
    """A role without rights on server files that may write parameters."""
    conn.execute("CREATE ROLE learner; GRANT USAGE ON SCHEMA public TO learner")
    conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO learner")
    conn.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO learner")
    yield "learner"
    conn.execute("RESET ROLE; DROP OWNED BY learner; DROP ROLE learner")


def test_server_files_need_a_role(conn, folder, model, role):
    path = write_safetensors(folder / "m.safetensors", gpt2(), metadata={"config.json": json.dumps(CONFIG)})
    conn.execute("SET ROLE learner")
    for function in ["import_safetensors", "import_npz", "export_safetensors", "export_npz"]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as error:
            conn.execute(f"SELECT pg_llm_{function}(%s, %s)", [str(path), model])
        assert ("pg_llm.load_model" if "import" in function else "GRANT") in error.value.diag.message_hint
    pg_llm.load_model(conn, path, model)  # an import over the connection needs no such right
    assert same(stored(conn, model), gpt2())
    conn.execute("RESET ROLE; GRANT pg_read_server_files TO learner; SET ROLE learner")
    assert by_path(conn, path, model)[0] == len(gpt2())


@pytest.mark.parametrize(
    ("path", "state"),
    [
        (None, "22004"),
        ("", "22004"),
        ("m.npz", "42602"),
        ("/no/such", "58P01"),
        ("/dev/zero", "42809"),
        ("/", "58P01"),
    ],
)
def test_paths(conn, path, state):
    for function in ["import_safetensors", "import_npz"]:
        with pytest.raises(psycopg.Error) as error:
            conn.execute(f"SELECT pg_llm_{function}(%s, 'm')", [path])
        assert error.value.sqlstate == state
    with pytest.raises(psycopg.Error):
        conn.execute("SELECT pg_llm_export_npz(%s, 'm')", [path])


def test_model_names(conn, folder):
    path = write_safetensors(folder / "m.safetensors", gpt2(), metadata={"config.json": json.dumps(CONFIG)})
    for name in [None, ""]:
        with pytest.raises(psycopg.Error, match="a model needs a name"):
            by_path(conn, path, name)
        with pytest.raises(psycopg.Error, match="there is no model"):
            conn.execute("SELECT pg_llm_export_npz(%s, %s)", [str(folder / "x.npz"), name])


def test_other_formats_are_told_apart(conn, folder, model):
    np.savez(folder / "m.npz", **gpt2())
    path = write_safetensors(folder / "m.safetensors", gpt2())
    visible(folder)
    with pytest.raises(psycopg.Error) as error:
        conn.execute("SELECT pg_llm_import_safetensors(%s, %s)", [str(folder / "m.npz"), model])
    assert "pg_llm_import_npz" in error.value.diag.message_hint
    with pytest.raises(psycopg.Error) as error:
        conn.execute("SELECT pg_llm_import_npz(%s, %s)", [str(path), model])
    assert "pg_llm_import_safetensors" in error.value.diag.message_hint


def test_transactions(conn, connect, folder, model):
    path = write_safetensors(folder / "m.safetensors", gpt2(), metadata={"config.json": json.dumps(CONFIG)})
    with pytest.raises(ZeroDivisionError), conn.transaction():
        pg_llm.load_model(conn, path, model)
        assert same(stored(conn, model), gpt2())
        raise ZeroDivisionError
    assert nothing_left(conn, model)
    # After a failed import inside a transaction, the transaction can continue.
    with conn.transaction():
        conn.execute("CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT 1")
        with pytest.raises(CheckpointError):
            pg_llm.load_model(conn, folder / "nothing", model)
        with pytest.raises(psycopg.Error):
            pg_llm.load_model(conn, path, "gpt2-small")
        assert conn.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    plain = connect()
    plain.autocommit = False
    plain.row_factory = dict_row
    pg_llm.load_model(plain, path, model)  # no transaction is open: it opens and commits its own
    assert same(stored(conn, model), gpt2())


def test_two_imports_at_once(conn, connect, folder, model):
    """The second waits, then replaces."""
    config = {"config.json": json.dumps(CONFIG)}
    first = write_safetensors(folder / "a.safetensors", gpt2(), metadata=config)
    second = write_safetensors(folder / "b.safetensors", gpt2(seed=1), metadata=config)
    one, other = connect(), connect()
    with one.transaction():
        pg_llm.load_model(one, first, model)
        waiting = threading.Thread(target=by_path, args=(other, second, model))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
    waiting.join()
    assert same(stored(conn, model), gpt2(seed=1))


def test_names_do_not_come_from_the_search_path(conn, folder, model):
    path = write_safetensors(folder / "m.safetensors", gpt2(), metadata={"config.json": json.dumps(CONFIG)})
    conn.execute("CREATE TEMPORARY TABLE llm_param (model text, name text, data text)")
    try:
        by_path(conn, path, model)
        pg_llm.load_model(conn, path, model)
        assert conn.execute("SELECT count(*) FROM pg_temp.llm_param").fetchone() == (0,)
    finally:
        conn.execute("DROP TABLE pg_temp.llm_param")
    assert same(stored(conn, model), gpt2())


# ---- export ----


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("head", [None, "separate"])
def test_export_and_back(conn, folder, model, ending, head):
    weights = gpt2(head=head)
    config = CONFIG | {"activation_function": "relu", "layer_norm_epsilon": 1e-3, "eos_token_id": 4}
    config |= {"tie_word_embeddings": head is None}
    path = write_safetensors(folder / "in.safetensors", weights, metadata={"config.json": json.dumps(config)})
    loaded = by_path(conn, path, model)
    out = folder / f"out.{ending}"
    assert (
        conn.execute(f"SELECT * FROM pg_llm_export_{ending}(%s, %s)", [str(out), model]).fetchone() == loaded
    )
    assert [p.name for p in folder.iterdir() if "tmp" in p.name] == []
    assert out.stat().st_mode & 0o777 == 0o644
    if ending == "npz":
        with np.load(out) as arrays:
            assert json.loads(arrays["config.json"])["n_head"] == 3
            assert same({n: arrays[n] for n in arrays if n != "config.json"}, weights)
    else:
        safetensors = pytest.importorskip("safetensors.numpy")
        assert same(safetensors.load_file(out), weights)
    row = config_of(conn, model)
    for load in (by_path, over_connection):
        for table in ["llm_param", "llm_graph", "llm_model_config"]:
            conn.execute(f"DELETE FROM {table} WHERE model = %s", [model])
        load(conn, out, model)
        assert same(stored(conn, model), weights) and config_of(conn, model) == row
    again = folder / f"again.{ending}"
    conn.execute(f"SELECT pg_llm_export_{ending}(%s, %s)", [str(again), model])
    assert again.read_bytes() == out.read_bytes()


def test_export_needs_weights(conn, folder, model):
    path = str(folder / "x.npz")
    with pytest.raises(psycopg.Error, match='model "gpt2-xl" has no weights'):
        conn.execute("SELECT pg_llm_export_npz(%s, 'gpt2-xl')", [path])
    config = {"config.json": json.dumps(CONFIG)}
    by_path(conn, write_safetensors(folder / "m.safetensors", gpt2(), metadata=config), model)
    conn.execute("DELETE FROM llm_param WHERE model = %s AND name LIKE 'ln_f%%'", [model])
    with pytest.raises(psycopg.Error, match="has no weights") as error:
        conn.execute("SELECT pg_llm_export_npz(%s, %s)", [path, model])
    assert "ln_f.weight, ln_f.bias" in error.value.diag.message_detail
    assert not Path(path).exists()


def test_export_replaces_only_regular_files(conn, folder, model):
    config = {"config.json": json.dumps(CONFIG)}
    by_path(conn, write_safetensors(folder / "m.safetensors", gpt2(), metadata=config), model)
    (folder / "model.npz").mkdir(mode=0o777)  # the name of the file within a folder
    with pytest.raises(psycopg.Error, match="is a folder"):
        conn.execute("SELECT pg_llm_export_npz(%s, %s)", [str(folder), model])
    with pytest.raises(psycopg.Error, match="not a regular file"):
        conn.execute("SELECT pg_llm_export_npz('/dev/null', %s)", [model])
    with pytest.raises(psycopg.errors.UndefinedFile):
        conn.execute("SELECT pg_llm_export_npz('/no/such/x.npz', %s)", [model])


def test_interrupted_export_leaves_nothing(conn, connect, folder, model):
    """Canceled or terminated midway: neither the file nor a temporary one remains."""
    conn.execute("SELECT llm_create_model(%s, 1, 1, 1024, 8, 40000)", [model])
    conn.execute("SELECT llm_init_model(%s, 1)", [model])
    for function in ["pg_cancel_backend", "pg_terminate_backend"]:
        writer = connect()
        pid = writer.info.backend_pid
        failures = []

        def run(writer=writer, failures=failures):
            try:
                while True:
                    writer.execute("SELECT pg_llm_export_npz(%s, %s)", [str(folder / "x.npz"), model])
                    (folder / "x.npz").unlink()
            except psycopg.Error as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not list(folder.glob("*.tmp")) and thread.is_alive():
            time.sleep(0.001)
        conn.execute(f"SELECT {function}(%s)", [pid])
        thread.join()
        assert failures[0].sqlstate in ("57014", "57P01")
        time.sleep(0.2)
        assert [p.name for p in folder.iterdir() if p.suffix == ".tmp"] == []


def test_changed_graph_is_mentioned(conn, folder, model):
    config = {"config.json": json.dumps(CONFIG)}
    by_path(conn, write_safetensors(folder / "m.safetensors", gpt2(), metadata=config), model)
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    conn.execute("SELECT pg_llm_export_npz(%s, %s)", [str(folder / "x.npz"), model])
    assert notices == []
    conn.execute("UPDATE llm_graph SET op = 'relu' WHERE model = %s AND name = 'h.1.mlp.act'", [model])
    conn.execute("SELECT pg_llm_export_npz(%s, %s)", [str(folder / "x.npz"), model])
    assert "no longer GPT-2's" in notices[0]


UNTIE = """INSERT INTO llm_graph (model, name, op, attrs)
    VALUES (%(m)s, 'lm_head.weight', 'param', '{"shape": ["V", "C"], "init": "normal", "std": 0.02}');
UPDATE llm_graph SET inputs = '{ln_f,lm_head.weight}' WHERE model = %(m)s AND name = 'logits';
INSERT INTO llm_param (model, name, data)
    SELECT %(m)s, 'lm_head.weight', data FROM llm_param WHERE model = %(m)s AND name = 'wte.weight'"""


EDITS = {
    "head": (UNTIE, {"tie_word_embeddings": False}),
    "relu": ("op = 'relu' WHERE op = 'gelu'", {"activation_function": "relu"}),
    "exact gelu": (
        """attrs = '{"approximate": "none"}' WHERE op = 'gelu'""",
        {"activation_function": "gelu"},
    ),
    "epsilon": ("""attrs = '{"eps": 0.001}' WHERE op = 'layernorm'""", {"layer_norm_epsilon": 0.001}),
    "heads": ("""attrs = '{"n_head": 2}' WHERE op = 'attention'""", {"n_head": 2}),
}


@pytest.mark.parametrize(("edit", "stated"), EDITS.values(), ids=EDITS)
def test_config_of_an_edited_graph(conn, folder, model, edit, stated):
    """config.json says what the graph computes; the file goes back under its own name and under another."""
    config = CONFIG | {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    config = {"config.json": json.dumps(config)}
    source = write_safetensors(folder / "m.safetensors", gpt2(), metadata=config)
    by_path(conn, source, model)
    for statement in edit.split(";"):
        if not statement.lstrip().startswith(("INSERT", "UPDATE")):
            statement = f"UPDATE llm_graph SET {statement} AND model = %(m)s"
        conn.execute(statement, {"m": model})
    weights = stored(conn, model)
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder / "out.safetensors"), model])
    assert notices == []
    config = conn.execute("SELECT llm_export_config(%s)", [model]).fetchone()[0]
    assert config | stated == config
    query = "SELECT llm_logits('{1,2,3}', %s)"
    before = conn.execute(query, [model]).fetchone()[0]
    for load in (by_path, over_connection):
        load(conn, folder / "out.safetensors", model)
        assert same(stored(conn, model), weights)
        assert np.array_equal(conn.execute(query, [model]).fetchone()[0], before)
        other = f"{model[:50]} {load.__name__}"
        load(conn, folder / "out.safetensors", other)
        assert np.array_equal(conn.execute(query, [other]).fetchone()[0], before)
    if "lm_head.weight" not in weights:  # an edit of the graph does not stand in the way of the first file
        by_path(conn, source, model)


# ---- pg-llm convert ----


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_convert(conn, folder, model, ending):
    weights = gpt2(head="equal")
    prefixed = {f"transformer.{n}" if n != "lm_head.weight" else n: a for n, a in weights.items()}
    prefixed["transformer.h.0.attn.bias"] = np.ones((1, 1, 7, 7), np.uint8)
    source = folder / "source"
    source.mkdir()
    write_safetensors(source / "model.safetensors", prefixed)
    (source / "config.json").write_text(json.dumps(CONFIG))
    out = folder / f"out.{ending}"
    convert(source, out)
    by_path(conn, visible(out), model)
    assert same(stored(conn, model), gpt2())
    assert sorted(p.name for p in folder.iterdir()) == sorted(["source", out.name])


def test_convert_refuses(folder):
    with pytest.raises(CheckpointError, match="must end in"):
        convert(folder, folder / "x.txt")
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        convert(folder, folder / "x.npz")
    write_safetensors(folder / "model.safetensors", {"a": np.zeros(3, np.int64)})
    with pytest.raises(CheckpointError, match='"a" has the type I64'):
        convert(folder, folder / "x.npz")
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors"]


# ---- against HuggingFace and PyTorch ----


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def random_gpt2(transformers, tied: bool):
    import torch

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=101, n_positions=13, n_embd=15, n_layer=3, n_head=5, n_inner=17, tie_word_embeddings=tied
    )
    return transformers.GPT2LMHeadModel(config)


@WAYS
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "shards"])
def test_save_pretrained(conn, folder, model, load, transformers, tied, kind):
    import torch

    network = random_gpt2(transformers, tied)
    if kind != "shards":
        network = network.to(getattr(torch, kind))
    network.save_pretrained(folder / "m", max_shard_size="20KB" if kind == "shards" else "1GB")
    load(conn, visible(folder / "m"), model)
    state = {n.removeprefix("transformer."): t.float().numpy() for n, t in network.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    assert same(stored(conn, model), state)
    options = config_of(conn, model)[6]
    assert options["tied_head"] is tied and options["activation"] == "gelu_tanh"


@pytest.mark.parametrize("tied", [True, False])
def test_from_pretrained(conn, folder, model, transformers, tied):
    """HuggingFace loads our export and computes the same logits."""
    import torch

    network = random_gpt2(transformers, tied).eval()
    network.save_pretrained(folder / "m")
    by_path(conn, visible(folder / "m"), model)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder / "out"), model])
    again = transformers.GPT2LMHeadModel.from_pretrained(folder / "out").eval()
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(network(tokens).logits, again(tokens).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorch_file(conn, folder, model, transformers, dtype):
    import torch

    network = random_gpt2(transformers, True).to(getattr(torch, dtype))
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    network.config.save_pretrained(folder)
    expected = {n.removeprefix("transformer."): t.float().numpy() for n, t in network.state_dict().items()}
    del expected["lm_head.weight"]
    pg_llm.load_model(conn, folder, model)
    assert same(stored(conn, model), expected)
    with pytest.raises(psycopg.Error) as error:  # the server reads no pickles, and its hint says what to do
        by_path(conn, visible(folder), model)
    assert "pg-llm convert" in error.value.diag.message_hint
    convert(folder, folder / "m.npz")
    by_path(conn, visible(folder / "m.npz"), model)
    assert same(stored(conn, model), expected)
