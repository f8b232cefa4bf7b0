"""Checkpoints are restored bit for bit, from a file or from rows; anything altered is refused."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoints import TRAIN, bits, load, location, row, save, sha256
from helpers.checkpoints import m as m
from helpers.tiny_model import make

import pg_llm

folder = checkpoint_files.folder
KINDS = pytest.mark.parametrize("kind", ["rows", "safetensors", "npz"])


def tensors(conn, model="m"):
    """The contents of a checkpoint, under their names."""
    all = {}
    for name, *parts in conn.cursor(binary=True).execute(
        "SELECT name, data, m, v FROM llm_param WHERE model = %s", [model]
    ):
        for prefix, tensor in zip(("", "optimizer.m.", "optimizer.v."), parts, strict=True):
            all[prefix + name] = np.array(tensor)
    return all


def digest(tensors):
    """llm_model_sha256 in Python."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(f"{name}\0{','.join(map(str, tensors[name].shape))}\0".encode())
        sha.update(tensors[name].astype("<f4").tobytes())
    return sha.hexdigest()


# ---- saving and loading ----


@KINDS
def test_there_and_back(m, kind):
    """Weights, moments and steps are restored, and training continues with the same bits."""
    before, id = bits(m), save(m, kind)
    m.execute(TRAIN, ("m", 2))
    after = bits(m)
    assert load(m, id) == 4
    assert bits(m) == before != after
    m.execute(TRAIN, ("m", 2))
    assert bits(m) == after
    step, note, parameters, fmt, at = row(m, id, "step, note, parameters, format, now() - at < '1 hour'")
    weights = {n: t for n, t in tensors(m).items() if not n.startswith("optimizer")}
    assert (step, note, fmt, at) == (4, "a note", kind, True)
    assert parameters == sum(t.size for t in weights.values())


@KINDS
def test_parameters_keep_their_own_steps(m, kind):
    """A part added later has fewer steps, possibly no moments yet; gradients do not outlive their weights."""
    m.execute("UPDATE llm_param SET step = 2, m = NULL, v = NULL WHERE model = 'm' AND name = 'ln_f.bias'")
    before, id = bits(m), save(m, kind)
    m.execute(TRAIN, ("m", 2))
    m.execute("UPDATE llm_param SET grad = data WHERE model = 'm'")
    load(m, id)
    assert bits(m) == before
    assert m.execute("SELECT count(grad) FROM llm_param WHERE model = 'm'").fetchone() == (0,)


@KINDS
def test_one_file_one_hash(m, kind):
    """Two checkpoints of one state have the same bytes; the recorded hashes equal Python's."""
    ids = [save(m, kind), save(m, kind)]
    hashes = [row(m, id, "sha256, model_sha256, bytes") for id in ids]
    assert hashes[0] == hashes[1]
    everything = tensors(m)
    weights = {n: t for n, t in everything.items() if not n.startswith("optimizer")}
    assert hashes[0][1] == sha256(m) == digest(weights)
    if kind == "rows":
        assert hashes[0][0] == digest(everything)
        stored = m.cursor(binary=True).execute(
            "SELECT name, data FROM llm_checkpoint_param WHERE checkpoint = %s", [ids[0]]
        )
        assert checkpoint_files.same({name: np.array(data) for name, data in stored}, everything)
    else:
        data = location(m, ids[0]).read_bytes()
        assert hashes[0][0] == hashlib.sha256(data).hexdigest() and hashes[0][2] == len(data)


def test_hash_of_a_model(m):
    """A changed shape changes the hash; shared parameters count as the model's own."""
    before = sha256(m)
    m.execute(
        "UPDATE llm_param SET data = reshape(data, ARRAY[2, 4]) WHERE model = 'm' AND name = 'ln_f.bias'"
    )
    assert sha256(m) != before
    m.execute("UPDATE llm_param SET data = reshape(data, ARRAY[8]) WHERE model = 'm' AND name = 'ln_f.bias'")
    assert sha256(m) == before
    m.execute("SELECT llm_create_model('twin', 2, 2, 8, 16, 26)")
    m.execute(
        "INSERT INTO llm_param_share SELECT 'twin', name, 'm', name FROM llm_graph "
        "WHERE model = 'twin' AND op = 'param'"
    )
    assert sha256(m, "twin") == before


def test_file_for_numpy(m):
    id = save(m, "npz")
    with np.load(location(m, id)) as arrays:
        config = json.loads(arrays["config.json"])
        assert checkpoint_files.same({n: arrays[n] for n in arrays if n != "config.json"}, tensors(m))
    assert config["pg_llm_checkpoint"] == {"format_version": 1, "model": "m", "step": 4}
    beside = location(m, id).with_name("config.json")
    assert json.loads(beside.read_text()) == config
    for path in (beside, location(m, id)):
        assert path.stat().st_mode & 0o777 == 0o644 and path.parent.stat().st_mode & 0o777 == 0o755


def test_file_for_safetensors(m):
    safetensors = pytest.importorskip("safetensors.numpy")
    assert checkpoint_files.same(safetensors.load_file(location(m, save(m))), tensors(m))


@pytest.mark.slow
@pytest.mark.parametrize("out", ["checkpoint", "export"])
def test_transformers_writes_the_same_text(m, folder, out):
    """GPT2LMHeadModel.from_pretrained reads the folder: same logits up to rounding, same greedy text."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    if out == "checkpoint":
        path = location(m, save(m)).parent
    else:
        path = folder / "out"
        path.mkdir(mode=0o777)
        path.chmod(0o777)
        m.execute("SELECT pg_llm_export_safetensors(%s, 'm')", [str(path)])
    network = transformers.GPT2LMHeadModel.from_pretrained(path).eval()
    prompt = [1, 2, 3]
    ours = m.execute("SELECT llm_logits(%s::int[], 'm')", [prompt]).fetchone()[0]
    with torch.no_grad():
        theirs = network(torch.tensor([prompt])).logits[0].numpy()
        text = network.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False, pad_token_id=0)
    assert np.abs(ours - theirs).max() < 1e-4
    tokens = m.execute("SELECT llm_encode(llm_generate('bcd', 10, 0, model => 'm', eos => -1), 'm')")
    assert tokens.fetchone()[0][-10:] == text[0, -10:].tolist()


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_import_takes_the_weights_alone(m, kind):
    """A checkpoint file can be imported as a model, by path and over the connection, without moments."""
    path, before = location(m, save(m, kind)), sha256(m)
    checkpoint_files.by_path(m, path, "by_path")
    pg_llm.load_model(m, path, "over_connection", progress=False)
    pg_llm.load_model(m, path.parent, "of_folder", progress=False)
    for model in ("by_path", "over_connection", "of_folder"):
        assert sha256(m, model) == before
        assert m.execute("SELECT count(m) FROM llm_param WHERE model = %s", [model]).fetchone() == (0,)


# ---- other models ----


@KINDS
def test_into_a_new_model(m, kind):
    """Into an unused name: config, graph and tokenizer name are restored."""
    m.execute("UPDATE llm_graph SET op = 'relu', attrs = '{}' WHERE model = 'm' AND op = 'gelu'")
    id, text = save(m, kind), "SELECT llm_generate('ab', 8, 0, model => %s, eos => -1)"
    expected = m.execute(text, ["m"]).fetchone()
    load(m, id, "copy")
    assert bits(m, "copy") == bits(m)
    assert m.execute(text, ["copy"]).fetchone() == expected
    m.execute("DELETE FROM llm_model_config WHERE model IN ('m', 'copy')")
    load(m, id)  # the model was dropped and is created again
    assert m.execute(text, ["m"]).fetchone() == expected
    graph = "SELECT count(*) FROM llm_graph WHERE model = 'm' AND op = 'relu'"
    assert m.execute(graph).fetchone() == (2,)


def test_into_another_model_of_the_same_parameters(m):
    make(m, "other", seed=2)
    id = save(m)
    load(m, id, "other")
    assert bits(m, "other") == bits(m)
    m.execute("DELETE FROM llm_param WHERE model = 'other' AND name LIKE 'ln_f%'")
    load(m, id, "other")
    assert bits(m, "other") == bits(m)


@KINDS
def test_other_architectures_are_refused(m, kind):
    id = save(m, kind)
    make(m, "wide", d_model=12, n_layer=1)
    before = bits(m, "wide")
    with pytest.raises(psycopg.errors.ArraySubscriptError, match="parameters are not those") as error:
        load(m, id, "wide")
    detail = error.value.diag.message_detail
    assert "h.0.ln_1.bias: checkpoint (8), model (12)" in detail
    assert "h.1.ln_1.bias: checkpoint (8), model none" in detail
    assert bits(m, "wide") == before


def test_another_graph_is_mentioned(m):
    notices = []
    m.add_notice_handler(lambda notice: notices.append((notice.message_primary, notice.message_detail)))
    id = save(m)
    load(m, id)
    assert notices == []
    m.execute("UPDATE llm_graph SET op = 'relu', attrs = '{}' WHERE model = 'm' AND op = 'gelu'")
    load(m, id)
    assert "not what it was when checkpoint" in notices[0][0] and "h.0.mlp.act" in notices[0][1]


def test_shared_parameters_go_to_their_source(m):
    m.execute("SELECT llm_create_model('twin', 2, 2, 8, 16, 26)")
    m.execute("INSERT INTO llm_param_share VALUES ('twin', 'wte.weight', 'm', 'wte.weight')")
    m.execute("SELECT llm_init_model('twin', 5)")
    hash, mine, id = sha256(m, "twin"), sha256(m), save(m, model="twin")
    m.execute("UPDATE llm_param SET data = data * 2::real::tensor WHERE model IN ('m', 'twin')")
    notices = []
    m.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    load(m, id, "twin")
    assert sha256(m, "twin") == hash and sha256(m) != mine
    assert "loaded into their source: m" in notices[0]


# ---- altered checkpoints ----


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size - 4)


def empty(path):
    path.write_bytes(b"")


def replace(path):
    """Replaces it by a file of the same format and size with other weights."""
    data = path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(data[:-400] + data[-400:][::-1])
    other.rename(path)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
@pytest.mark.parametrize("damage", [flip, truncate, empty, replace])
def test_damaged_files_are_refused(m, kind, damage):
    id = save(m, kind)
    m.execute(TRAIN, ("m", 2))
    before = bits(m)
    damage(location(m, id))
    with pytest.raises(psycopg.errors.DataCorrupted, match=f"checkpoint {id} is not what was saved") as error:
        load(m, id)
    assert "The model keeps its weights" in error.value.diag.message_detail
    assert bits(m) == before
    with pytest.raises(psycopg.errors.DataCorrupted):
        load(m, id, "new")
    assert checkpoint_files.nothing_left(m, "new")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE llm_checkpoint_param SET data = data + 1 WHERE name = 'optimizer.v.ln_f.bias'",
        "UPDATE llm_checkpoint_param SET data = reshape(data, ARRAY[2, 4]) WHERE name = 'ln_f.bias'",
        "UPDATE llm_checkpoint_param SET name = 'ln_f.bios' WHERE name = 'ln_f.bias'",
        "DELETE FROM llm_checkpoint_param WHERE name = 'ln_f.bias'",
        "INSERT INTO llm_checkpoint_param SELECT max(id), 'more', '1' FROM llm_checkpoint",
    ],
)
def test_changed_rows_are_refused(m, change):
    id = save(m, "rows")
    before = bits(m)
    m.execute(change)
    with pytest.raises(psycopg.errors.DataCorrupted, match=f"checkpoint {id} is not what was saved"):
        load(m, id)
    assert bits(m) == before


def test_a_file_that_is_gone_or_was_moved(m, folder):
    id = save(m)
    before, path = bits(m), location(m, id)
    moved = path.rename(folder / "elsewhere.safetensors")
    with pytest.raises(psycopg.errors.UndefinedFile, match="is gone") as error:
        load(m, id)
    assert "UPDATE llm_checkpoint SET location" in error.value.diag.message_hint
    m.execute("UPDATE llm_checkpoint SET location = %s WHERE id = %s", [str(moved), id])
    m.execute(TRAIN, ("m", 2))
    load(m, id)
    assert bits(m) == before
    m.execute("UPDATE llm_checkpoint SET location = %s WHERE id = %s", [str(folder), id])
    with pytest.raises(psycopg.errors.WrongObjectType, match="not a regular file"):
        load(m, id)


def test_weights_that_are_missing(m):
    m.execute("DELETE FROM llm_param WHERE model = 'm' AND name = 'ln_f.bias'")
    for query in ("llm_checkpoint_save('m')", "llm_model_sha256('m')"):
        with pytest.raises(psycopg.errors.UndefinedObject, match='model "m" has no weights') as error:
            m.execute(f"SELECT {query}")
        assert "ln_f.bias" in error.value.diag.message_detail


ERRORS = [
    ("llm_checkpoint_save('nobody')", "42704", 'no model "nobody"'),
    ("llm_checkpoint_save(NULL)", "42704", "no model"),
    ("llm_checkpoint_save('m', format => 'zip')", "22023", 'format is "zip"'),
    ("llm_checkpoint_save('m', location => '/etc/x')", "22023", 'location is "/etc/x"'),
    ("llm_checkpoint_save('m', format => 'npz', location => 'database')", "22023", "cannot have"),
    ("llm_checkpoint_save('m', format => 'rows', location => 'file')", "22023", "cannot have"),
    ("llm_checkpoint_load('m', 0)", "42704", "there is no checkpoint 0"),
    ("llm_checkpoint_load('m', NULL)", "42704", "there is no checkpoint NULL"),
    ("llm_checkpoint_load(NULL, (SELECT max(id) FROM llm_checkpoint))", "22023", "needs a name"),
    ("llm_checkpoint_load('', (SELECT max(id) FROM llm_checkpoint))", "22023", "needs a name"),
    ("llm_checkpoint_delete(0)", "42704", "there is no checkpoint 0"),
    ("llm_checkpoint_delete(NULL)", "42704", "there is no checkpoint NULL"),
    ("llm_model_sha256('nobody')", "42704", 'no model "nobody"'),
    ("llm_model_sha256(NULL)", "42704", "no model"),
]


def test_errors(m):
    save(m, "rows")
    for query, state, text in ERRORS:
        with pytest.raises(psycopg.Error, match=text) as error:
            m.execute(f"SELECT {query}")
        assert error.value.sqlstate == state, query
        assert error.value.diag.message_hint, query
