"""Import of checkpoints: by path on the server and over the connection, bit for bit, and all errors."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoint_files import (
    CONFIG,
    NUMPY_NAMES,
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

from pg_llm.files.checkpoint import CheckpointError, open_checkpoint

pytestmark = pytest.mark.slow

folder = checkpoint_files.folder
model = checkpoint_files.model
MODELS = ["gpt-nano-adder-a", "gpt-nano-sort", "makemore-names-a", "slm-4096"]


# ---- files that must import ----


@WAYS
@pytest.mark.parametrize("name", MODELS)
def test_trained_models(conn, shared, folder, model, load, name):
    source = folder / "m"
    shutil.copytree(shared / "data" / "models" / name, source)
    visible(source)
    loaded = load(conn, source, model)
    with open_checkpoint(source) as checkpoint:
        expected = {t.name: np.concatenate([*t.pieces()]).reshape(t.shape) for t in checkpoint.tensors}
    assert loaded[:2] == (len(expected), sum(a.size for a in expected.values()))
    assert same(stored(conn, model), expected)
    config = json.loads((source / "config.json").read_text())
    n_layer, n_head, d_model, d_ff, n_positions, vocab, options = config_of(conn, model)
    assert [n_layer, n_head, d_model, d_ff, n_positions, vocab] == [
        *(config[k] for k in ("n_layer", "n_head", "n_embd")), 4 * config["n_embd"],
        *(config[k] for k in ("n_positions", "vocab_size")),
    ]  # fmt: skip
    assert options["tied_head"] is config["tie_word_embeddings"]
    assert (
        options["activation"] == {"gelu_new": "gelu_tanh", "gelu": "gelu_erf"}[config["activation_function"]]
    )
    assert options["layer_norm_epsilon"] == 1e-5


@WAYS
@pytest.mark.parametrize(
    "kind", ["plain", "prefixed", "F16", "BF16", "F64", "npz", "npz deflated", "npz odd"]
)
def test_kinds_of_file(conn, folder, model, load, kind):
    weights = gpt2(head="separate")
    masks = {"h.0.attn.bias": np.ones((1, 1, 7, 7), bool), "h.1.attn.masked_bias": np.float32(-1e4)}
    path = folder / ("m.npz" if "npz" in kind else "model.safetensors")
    expected = weights
    if kind == "npz":
        np.savez(path, **weights)
    elif kind == "npz deflated":
        np.savez_compressed(path, **weights)
    elif kind == "npz odd":  # Fortran order, big-endian, float64
        odd = {
            n: np.asfortranarray(a.astype([">f4", "<f8", "<f4"][i % 3]))
            for i, (n, a) in enumerate(weights.items())
        }
        np.savez(path, **odd)
    elif kind == "prefixed":
        prefixed = {n if n == "lm_head.weight" else f"transformer.{n}": a for n, a in weights.items()}
        write_safetensors(path, prefixed | {f"transformer.{n}": np.asarray(a) for n, a in masks.items()})
    elif kind == "BF16":
        halves = {n: (a.view("<u4") >> 16).astype("<u2") for n, a in weights.items()}
        NUMPY_NAMES["<u2"] = "BF16"
        write_safetensors(path, halves)
        expected = {n: (a.astype("<u4") << 16).view("<f4") for n, a in halves.items()}
    elif kind in ("F16", "F64"):
        narrow = {n: a.astype("<f2" if kind == "F16" else "<f8") for n, a in weights.items()}
        write_safetensors(path, narrow)
        expected = {n: a.astype("<f4") for n, a in narrow.items()}
    else:
        write_safetensors(path, weights)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    visible(folder)
    assert load(conn, path, model)[:2] == (len(expected), sum(a.size for a in expected.values()))
    assert same(stored(conn, model), expected)
    assert config_of(conn, model)[6]["tied_head"] is False


@WAYS
def test_head_equal_to_wte_is_tied(conn, folder, model, load):
    weights = gpt2(head="equal")
    path = write_safetensors(folder / "a.safetensors", weights, metadata={"config.json": json.dumps(CONFIG)})
    load(conn, path, model)
    assert same(stored(conn, model), gpt2())
    assert config_of(conn, model)[6]["tied_head"] is True
    # unless the config says that the two differ
    config = json.dumps(CONFIG | {"tie_word_embeddings": False})
    path = write_safetensors(folder / "b.safetensors", weights, metadata={"config.json": config})
    conn.execute("DELETE FROM llm_model_config WHERE model = %s", [model])
    conn.execute("DELETE FROM llm_graph WHERE model = %s", [model])
    load(conn, path, model)
    assert same(stored(conn, model), weights)


@WAYS
def test_nan_has_one_form(conn, folder, model, load):
    weights = gpt2()
    weights["ln_f.bias"] = np.array(
        [0x7FC00001, 0xFFC00000, 0x7F800001, 0x7F800000, 0, 0x80000000], "<u4"
    ).view("<f4")
    path = write_safetensors(folder / "m.safetensors", weights, metadata={"config.json": json.dumps(CONFIG)})
    load(conn, path, model)
    bits = stored(conn, model)["ln_f.bias"].view("<u4").tolist()
    assert bits == [0x7FC00000] * 3 + [0x7F800000, 0, 0x80000000]


@WAYS
def test_dimensions_from_the_tensors(conn, folder, model, load):
    # weights do not reveal the number of heads
    np.savez(folder / "m.npz", **gpt2())
    visible(folder / "m.npz")
    other = model[:-2] + "-2"
    with pytest.raises(psycopg.Error, match=r"n_head of model .* is unknown") as error:
        load(conn, folder / "m.npz", other)
    assert "llm_create_model" in error.value.diag.message_hint and nothing_left(conn, other)
    hint = error.value.diag.message_hint
    conn.execute(hint[hint.index("SELECT") :].replace("?", "3"))
    load(conn, folder / "m.npz", other)
    assert same(stored(conn, other), gpt2()) and config_of(conn, other)[:6] == (2, 3, 6, 10, 7, 11)


def shapes(layers, width, positions=1024, vocab=50257, c_fc=None):
    """A file's list of tensors, as far as dimensions are read from it. c_fc: (out,in), as c_attn then is."""
    last = f"h.{layers - 1}."
    named = {"wte.weight": [vocab, width], "wpe.weight": [positions, width], last + "ln_1.weight": [width]}
    named["h.0.attn.c_attn.weight"] = [3 * width, width] if c_fc else [width, 3 * width]
    named["h.0.mlp.c_fc.weight"] = c_fc or [width, 4 * width]
    return json.dumps([{"name": name, "dtype": "F32", "shape": shape} for name, shape in named.items()])


REGISTER = "SELECT _llm_import_register('heads', %s, %s, false)"


@pytest.mark.parametrize(
    ("layers", "width", "heads"), [(12, 768, 12), (24, 1024, 16), (36, 1280, 20), (48, 1600, 25)]
)
def test_heads_of_the_published_sizes_are_known(conn, layers, width, heads):
    with conn.transaction(force_rollback=True):
        conn.execute(REGISTER, (shapes(layers, width), None))
        assert config_of(conn, "heads")[:6] == (layers, heads, width, 4 * width, 1024, 50257)


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (shapes(1, 128), None),
        (shapes(12, 768, positions=512), None),
        (shapes(12, 768, vocab=50304), None),  # nanoGPT's padded vocabulary: nobody says that it is GPT-2
        (shapes(24, 768), None),
        (shapes(6, 384), json.dumps({"n_embd": 384, "n_layer": 6})),
    ],
)
def test_heads_of_other_sizes_are_asked_for(conn, tensors, config):
    with pytest.raises(psycopg.Error, match="n_head of model .* is unknown: no config.json states it"):
        conn.execute(REGISTER, (tensors, config))
    assert nothing_left(conn, "heads")


def test_the_hint_for_a_file_to_be_transposed_has_the_right_d_ff(conn):
    with pytest.raises(psycopg.Error, match="n_head") as error:
        conn.execute(REGISTER, (shapes(2, 24, 16, 65, c_fc=[96, 24]), None))
    assert "d_ff => 96" in error.value.diag.message_hint


@WAYS
def test_import_again_replaces(conn, folder, model, load):
    config = {"config.json": json.dumps(CONFIG)}
    load(conn, write_safetensors(folder / "a.safetensors", gpt2(), metadata=config), model)
    conn.execute("UPDATE llm_param SET grad = data, m = data, v = data, step = 7 WHERE model = %s", [model])
    load(conn, write_safetensors(folder / "b.safetensors", gpt2(seed=1), metadata=config), model)
    assert same(stored(conn, model), gpt2(seed=1))
    query = "SELECT DISTINCT grad, m, v, step FROM llm_param WHERE model = %s"
    assert conn.execute(query, [model]).fetchall() == [(None, None, None, 0)]


@WAYS
def test_learners_graph_is_kept(conn, folder, model, load):
    """An import replaces weights, not an architecture that a learner changed."""
    path = write_safetensors(folder / "m.safetensors", gpt2(), metadata={"config.json": json.dumps(CONFIG)})
    load(conn, path, model)
    conn.execute("UPDATE llm_graph SET op = 'relu', attrs = '{}' WHERE model = %s AND op = 'gelu'", [model])
    load(conn, path, model)
    assert conn.execute(
        "SELECT count(*) FROM llm_graph WHERE model = %s AND op = 'relu'", [model]
    ).fetchone() == (2,)


@WAYS
def test_shards(conn, folder, model, load):
    weights = list(gpt2().items())
    halves = {"a-1.safetensors": dict(weights[:9]), "a-2.safetensors": dict(weights[9:])}
    for name, part in halves.items():
        write_safetensors(folder / name, part)
    index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, part in halves.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    load(conn, visible(folder), model)
    assert same(stored(conn, model), gpt2())
    index["weight_map"]["x"] = "../a-1.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((psycopg.Error, CheckpointError), match="beside it"):
        load(conn, folder, model)


@pytest.mark.parametrize("values", ["random", "zeros", "steps", "text", "words"])
def test_inflate_everything_that_zlib_writes(conn, folder, model, values):
    """Blocks of every kind, long and short codes, distant copies: zlib's own compressor at levels 1 to 9."""
    random = np.random.default_rng(1)
    size = (300, 128)
    wte = {
        "random": random.standard_normal(size),
        "zeros": np.zeros(size),
        "steps": np.repeat(np.arange(300), 128).reshape(size),
        "text": random.geometric(0.02, size),
        "words": np.tile(random.standard_normal(9000), 5)[: 300 * 128].reshape(size),  # copies 32 kB back
    }[values].astype(np.float32)
    weights = gpt2((300, 4, 128, 1, 9)) | {"wte.weight": wte}
    (folder / "config.json").write_text('{"n_head": 4}')
    for level in range(1, 10):
        path = folder / f"{level}.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
            for name, array in weights.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array)
        by_path(conn, visible(path), model)
        assert same(stored(conn, model), weights)


# ---- files that must not ----


def refused(conn, load, path, model, match):
    """Returns the message; checks that the attempt left nothing behind."""
    with pytest.raises((psycopg.Error, CheckpointError), match=match) as error:
        load(conn, path, model)
    assert nothing_left(conn, model)
    return error.value


@WAYS
def test_every_wrong_tensor_is_named(conn, folder, model, load):
    weights = gpt2()
    del weights["h.1.mlp.c_fc.bias"], weights["ln_f.weight"]
    weights["h.2.extra"] = weights["h.0.attn.c_attn.bias"] = np.zeros(3, np.float32)
    weights["wpe.weight"] = np.zeros((7, 6), np.int64)
    path = write_safetensors(folder / "m.safetensors", weights, metadata={"config.json": json.dumps(CONFIG)})
    error = refused(conn, load, path, model, "2 missing, 1 surplus, 2 of another shape")
    assert error.sqlstate == "2202E"
    assert error.diag.message_detail.splitlines() == [
        "Missing: h.1.mlp.c_fc.bias (10), ln_f.weight (6)",
        "Surplus: h.2.extra (3)",
        "Of another shape: wpe.weight is (7,6) of type I64, expected (7,6) of F32, F16, BF16 or F64, "
        "h.0.attn.c_attn.bias is (3), expected (18)",
    ]


@WAYS
def test_many_wrong_tensors_are_counted(conn, folder, model, load):
    weights = {n: a for n, a in gpt2((11, 7, 6, 4, 10)).items() if not n.startswith("h.")}
    config = json.dumps(CONFIG | {"n_layer": 4})
    path = write_safetensors(folder / "m.safetensors", weights, metadata={"config.json": config})
    error = refused(conn, load, path, model, "48 missing")
    assert error.sqlstate == "42704" and error.diag.message_detail.endswith(" and 28 more")


@WAYS
def test_surplus_tensors_can_be_left_out(conn, folder, model, load):
    """Each is named once, also where its type is no float."""
    surplus = {"score.weight": np.zeros((2, 6), np.float32), "h.0.attn.rotary": np.zeros(3, np.int64)}
    config = {"config.json": json.dumps(CONFIG)}
    path = write_safetensors(folder / "m.safetensors", gpt2() | surplus, metadata=config)
    error = refused(conn, load, path, model, "are not those of model .*: 2 surplus\n")
    assert error.diag.message_detail == "Surplus: score.weight (2,6), h.0.attn.rotary (3)"
    assert error.diag.message_hint == "ignore_surplus => true imports the file without them."
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    assert load(conn, path, model, ignore_surplus=True)[0] == len(gpt2())
    assert notices == ["left out of the import: score.weight (2,6), h.0.attn.rotary (3)"]
    assert same(stored(conn, model), gpt2())


@WAYS
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_layer": 3}, "12 missing"),
        ({"vocab_size": 12}, "1 of another shape"),
        ({"n_head": 4}, "does not divide into 4 heads"),
        ({"n_head": 0}, "n_head is 0, expected a whole number from 1"),
        ({"n_head": "3"}, 'n_head is "3", expected a whole number'),
        ({"n_embd": 1e30}, "n_embd is 1.*, expected a whole number"),
        ({"model_type": "mamba"}, 'model_type "mamba" is not known'),
        ({"activation_function": "mish"}, 'activation_function is "mish"'),
        ({"layer_norm_epsilon": "x"}, "layer_norm_epsilon is"),
        ({"add_cross_attention": True}, "add_cross_attention is true, supported is false"),
        ({"scale_attn_weights": 1}, "scale_attn_weights is 1, expected true or false"),
        ({"tie_word_embeddings": False}, "1 missing"),
    ],
)
def test_config_is_checked(conn, folder, model, load, change, match):
    write_safetensors(folder / "model.safetensors", gpt2())
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    refused(conn, load, visible(folder), model, match)


@WAYS
@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"nul", b'{"n_head": NaN}', b'"x"', '{"_name": "Jos\xe9"}'.encode("latin-1"),
     '{"n_head": 3}'.encode("utf-16"), b'{"a":' * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000],
    ids=["empty", "open", "array", "nul", "NaN", "text", "latin-1", "utf-16", "deep and open", "deep"],
)  # fmt: skip
def test_config_that_is_no_config(conn, folder, model, load, text):
    write_safetensors(folder / "model.safetensors", gpt2())
    (folder / "config.json").write_bytes(text)
    refused(conn, load, visible(folder), model, "config.json")


@WAYS
def test_config_with_a_byte_order_mark(conn, folder, model, load):
    write_safetensors(folder / "model.safetensors", gpt2())
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8-sig")
    load(conn, visible(folder), model)
    assert config_of(conn, model)[:6] == (2, 3, 6, 10, 7, 11)


@WAYS
def test_both_names_of_a_tensor(conn, folder, model, load):
    weights = gpt2() | {"transformer.ln_f.bias": np.zeros(6, np.float32)}
    path = write_safetensors(folder / "m.safetensors", weights, metadata={"config.json": json.dumps(CONFIG)})
    refused(conn, load, path, model, '"ln_f.bias" and "transformer.ln_f.bias" are the same parameter')


@WAYS
def test_a_tensor_in_two_shards(conn, folder, model, load):
    weights = gpt2()
    write_safetensors(folder / "a.safetensors", weights)
    write_safetensors(folder / "b.safetensors", {"ln_f.bias": weights["ln_f.bias"]})
    index = {"weight_map": dict.fromkeys(weights, "a.safetensors") | {"ln_f.bias": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    refused(conn, load, visible(folder), model, 'two tensors have the name "ln_f.bias"')


@WAYS
def test_registered_models_are_not_altered(conn, folder, load):
    before = config_of(conn, "gpt2-small")
    config = {"config.json": json.dumps(CONFIG)}
    path = write_safetensors(folder / "m.safetensors", gpt2(), metadata=config)
    with pytest.raises(psycopg.Error, match="registered as another model") as error:
        load(conn, path, "gpt2-small")
    assert "n_layer: registered 12, file 2" in error.value.diag.message_detail
    np.savez(folder / "m.npz", **gpt2())  # without a config, the shapes determine the dimensions
    with pytest.raises(psycopg.Error, match="missing.*another shape"):
        load(conn, visible(folder / "m.npz"), "gpt2-small")
    assert config_of(conn, "gpt2-small") == before
    assert conn.execute("SELECT count(*) FROM llm_graph WHERE model = 'gpt2-small'").fetchone() == (0,)


@WAYS
def test_separate_head_of_a_tied_model(conn, folder, model, load):
    config = {"config.json": json.dumps(CONFIG)}
    load(conn, write_safetensors(folder / "a.safetensors", gpt2(), metadata=config), model)
    path = write_safetensors(folder / "b.safetensors", gpt2(head="separate"), metadata=config)
    with pytest.raises(psycopg.Error, match="registered as another model") as error:
        load(conn, path, model)
    assert "head: registered tied" in error.value.diag.message_detail
    assert same(stored(conn, model), gpt2())


@WAYS
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_damaged_files(conn, folder, model, load, ending):
    """Truncated at many places, bytes changed: an error, or (a changed weight) the same names and shapes."""
    whole = folder / f"whole.{ending}"
    if ending == "npz":
        np.savez_compressed(whole, **gpt2((5, 4, 6, 0, 9)))
    else:
        write_safetensors(whole, gpt2((5, 4, 6, 0, 9)))
    content = whole.read_bytes()
    conn.execute("SELECT llm_create_model(%s, 0, 3, 6, 4, 5)", [model])
    path = folder / f"m.{ending}"
    for cut in [*range(0, len(content), 29), len(content) - 1]:
        path.write_bytes(content[:cut])
        with pytest.raises((psycopg.Error, CheckpointError)):
            load(conn, visible(path), model)
    for at in range(0, len(content), 23):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            load(conn, path, model)
        except (psycopg.Error, CheckpointError):
            continue
        assert {n: a.shape for n, a in stored(conn, model).items()} == {
            n: a.shape for n, a in gpt2((5, 4, 6, 0, 9)).items()
        }


@pytest.fixture
def large(folder):
    """A model of 20 MB in a deflated file: its import takes a while."""
    path = folder / "large.npz"
    np.savez_compressed(path, **gpt2((20000, 4, 256, 1, 9)))
    (folder / "config.json").write_text('{"n_head": 4}')
    return visible(path)


def test_interrupted_import_leaves_nothing(conn, model, large):
    by_path(conn, large, model)
    query = "SELECT array_agg((name, xmin) ORDER BY name)::text FROM llm_param WHERE model = %s"
    canceled = 0
    for milliseconds in [1, 2, 5, 10, 20, 50, 100, 200, 400]:
        before = conn.execute(query, [model]).fetchone()
        conn.execute(f"SET statement_timeout = {milliseconds}")
        try:
            by_path(conn, large, model)
        except psycopg.errors.QueryCanceled:
            canceled += 1
            conn.execute("RESET statement_timeout")
            assert conn.execute(query, [model]).fetchone() == before
        conn.execute("RESET statement_timeout")
    assert canceled > 0


def test_memory_limit(conn, model, large):
    """The limit is reported before memory is allocated, and nothing is left behind."""
    conn.execute("SET pg_llm.memory_limit = '32MB'")
    try:
        error = refused(conn, by_path, large, model, "MB")
        assert error.sqlstate == "53200"
        error = refused(conn, over_connection, large, model, "MB")
        assert error.sqlstate == "53200"
    finally:
        conn.execute("RESET pg_llm.memory_limit")
