"""One set of rules for the two readers, the server's and Python's: what one refuses, the other refuses."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoint_files import (
    WAYS,
    by_path,
    config_of,
    gpt2,
    nothing_left,
    over_connection,
    same,
    stored,
    visible,
)

from pg_llm.files.checkpoint import CheckpointError

pytestmark = pytest.mark.slow

folder = checkpoint_files.folder
model = checkpoint_files.model
WEIGHTS = gpt2((5, 4, 6, 0, 9))
SPARE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def judge(conn, load, path, model, accepted, **options):
    """An accepted file gives the weights, a refused one an error and nothing else."""
    conn.execute("SELECT llm_create_model(%s, 0, 3, 6, 4, 5)", [model])
    if accepted:
        load(conn, visible(path), model, **options)
        assert same(stored(conn, model), WEIGHTS)
    else:
        with pytest.raises((psycopg.Error, CheckpointError)):
            load(conn, visible(path), model, **options)
        assert stored(conn, model) == {}


def header(spare=None, metadata=None) -> list[str]:
    """The members of a header's JSON: one or more spare tensors, then the weights."""
    members = [f"{json.dumps(name)}: {entry}" for name, entry in (metadata or [])]
    members += [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in (spare or [])]
    at = max([0, *(entry["data_offsets"][1] for _, entry in spare or [])])
    for name, array in WEIGHTS.items():
        entry = {"dtype": "F32", "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        members.append(f"{json.dumps(name)}: {json.dumps(entry)}")
        at += array.nbytes
    return members


def spare(**changes):
    return "{" + ", ".join(header([("spare", SPARE | changes)])) + "}"


def metadata(*texts):
    return "{" + ", ".join(header(metadata=[("__metadata__", text) for text in texts])) + "}"


PLAIN = "{" + ", ".join(header()) + "}"
TWICE = '{"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
HEADERS = {
    "plain": (PLAIN, True),
    "metadata": (metadata('{"format": "pt"}'), True),
    "metadata null": (metadata("null"), True),
    "metadata number": (metadata('{"format": 1}'), False),
    "metadata object": (metadata('{"format": {"a": "b"}}'), False),
    "metadata list": (metadata("[]"), False),
    "metadata twice": (metadata("{}", "{}"), False),
    "metadata with a key twice": (metadata('{"a": "b", "a": "c"}'), True),
    "a name twice": ("{" + ", ".join([*header(), header()[0]]) + "}", False),
    "a name for two tensors": ("{" + ", ".join(header([("wte.weight", SPARE)])) + "}", False),
    "a field twice": (spare().replace(json.dumps(SPARE), TWICE), False),
    "another field": (spare(more=[1, {"x": None}]), True),
    "empty name": (spare().replace('"spare"', '""'), False),
    "NUL in a name": (spare().replace('"spare"', '"a\\u0000b"'), False),
    "a lone surrogate": (spare().replace('"spare"', '"\\ud800"'), False),
    "no UTF-8": (spare().replace('"spare"', '"\udcff"'), False),
    "unknown type": (spare(dtype="Q4"), False),
    "lower case": (spare(dtype="f32"), False),
    "F4": (spare(dtype="F4", shape=[16]), True),
    "F4, odd": (spare(dtype="F4", shape=[15]), False),
    "F8_E8M0": (spare(dtype="F8_E8M0", shape=[8]), True),
    "F8_E4M3FNUZ": (spare(dtype="F8_E4M3FNUZ", shape=[8]), True),
    "C64": (spare(dtype="C64", shape=[1]), True),
    "BOOL": (spare(dtype="BOOL", shape=[2, 4]), True),
    "eight dimensions": (spare(shape=[1] * 7 + [2]), True),
    "nine dimensions": (spare(shape=[1] * 8 + [2]), False),
    "fraction": (spare(shape=[2.0]), False),
    "negative": (spare(shape=[-2, -1]), False),
    "another size": (spare(shape=[3]), False),
    "empty": (spare(shape=[0, 3], data_offsets=[0, 0]), True),
    "backwards": (spare(data_offsets=[8, 0]), False),
    "hole": (spare(data_offsets=[4, 12]), False),
    "spaces": ("  " + PLAIN + " \n ", True),
    "byte order mark": ("\ufeff" + PLAIN, False),
    "NULs after it": (PLAIN + "\0\0", False),
    "array": ("[]", False),
    "nothing": ("", False),
}


@WAYS
@pytest.mark.parametrize(("text", "accepted"), HEADERS.values(), ids=HEADERS)
def test_headers_of_safetensors(conn, folder, model, load, text, accepted):
    encoded = text.encode("utf-8", "surrogateescape")
    data = b"".join(array.tobytes() for array in WEIGHTS.values())
    try:
        pairs = json.loads(text, object_pairs_hook=list)
        size = max(dict(entry)["data_offsets"][1] for name, entry in pairs if name != "__metadata__")
    except ValueError:
        size = len(data)
    path = folder / "m.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data.rjust(size, b"\0"))
    judge(conn, load, path, model, accepted, ignore_surplus=True)


@WAYS
def test_the_last_config_counts(conn, folder, model, load):
    text = metadata('{"config.json": "{\\"n_head\\": 2}", "config.json": "{\\"n_head\\": 3}"}')
    data = b"".join(array.tobytes() for array in WEIGHTS.values())
    (folder / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode() + data)
    load(conn, visible(folder / "m.safetensors"), model)
    assert config_of(conn, model)[1] == 3


def npy(array, descr="<f4", version=1, padding=0) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {array.shape}, }}" + " " * padding + "\n"
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


ARRAYS = {
    "plain": ({}, True),
    "f4": ({"descr": "f4"}, True),
    "=f4": ({"descr": "=f4"}, True),
    "big-endian": ({"descr": ">f4"}, True),
    "version 2": ({"version": 2}, True),
    "version 3": ({"version": 3}, True),
    "version 4": ({"version": 4}, False),
    "a long header": ({"padding": 20_000}, True),
    "a header that is too long": ({"padding": 70_000, "version": 2}, False),
    "whole numbers": ({"descr": "<i4"}, False),
    "complex": ({"descr": "<c8"}, False),
    "no type": ({"descr": "quux"}, False),
}


@WAYS
@pytest.mark.parametrize(("changes", "accepted"), ARRAYS.values(), ids=ARRAYS)
def test_headers_of_npy(conn, folder, model, load, changes, accepted):
    path, stored_as = folder / "m.npz", {">f4": ">f4", "<c8": "<c8"}.get(changes.get("descr"), "<f4")
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in WEIGHTS.items():
            archive.writestr(f"{name}.npy", npy(array, **changes) + array.astype(stored_as).tobytes())
    judge(conn, load, path, model, accepted)


@WAYS
@pytest.mark.parametrize(
    ("kind", "accepted"),
    [("stored", True), ("deflated", True), ("bzip2", False), ("LZMA", False), ("folder", True),
     ("text", False), ("twice", False), ("no name", False)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_npz(conn, folder, model, load, kind, accepted):
    methods = {"deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "LZMA": zipfile.ZIP_LZMA}
    path = folder / "m.npz"
    with zipfile.ZipFile(path, "w", methods.get(kind, zipfile.ZIP_STORED)) as archive:
        for name, array in WEIGHTS.items():
            archive.writestr(f"{name}.npy", npy(array) + array.tobytes())
        more = {"folder": "weights/", "text": "README.txt", "twice": "wte.weight.npy", "no name": ".npy"}.get(
            kind
        )
        if more:
            spare = np.zeros(2, "<f4")
            archive.writestr(more, npy(spare) + spare.tobytes() if more.endswith("npy") else "")
    judge(conn, load, path, model, accepted)


# ---- files that are no checkpoints: the error says what they are ----

TABLE_END = bytes(40) + bytes.fromhex("57fb808b247547db")
KINDS = {
    "GGUF": (b"GGUF\3\0\0\0" + bytes(100), "a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "TensorFlow": (b"\0\0\x1c\x08\x01\x12\2\x08" + TABLE_END, "a checkpoint of TensorFlow"),
    "pickle": (b"\x80\4\x95\x10" + bytes(100), "a Python pickle, which can contain code"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 548105171\n",
        "a Git LFS pointer",
    ),
    "HTML": (b"\n<!DOCTYPE html>\n<html lang=en><title>gpt2 at main</title></html>", "an HTML page"),
    "UTF-16": ("the weights".encode("utf-16"), "UTF-16 text"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
    "llm.c": (np.array([20240326, 3] + [0] * 30, "<i4").tobytes(), "llm.c"),
    "npy": (b"\x93NUMPY\1\0" + bytes(100), "a single NumPy array"),
    "JSON": (b'{"metadata": {}, "weight_map": {"wte.weight": "a.safetensors"}}', "JSON text"),
}


@pytest.mark.parametrize("ending", ["safetensors", "npz", "bin", "pt"])
@pytest.mark.parametrize(("content", "what"), KINDS.values(), ids=KINDS)
def test_kinds_of_file_are_named(conn, folder, model, content, what, ending):
    path = folder / f"m.{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=what) as error:
        over_connection(conn, path, model)
    assert str(path) in str(error.value)
    if ending in ("safetensors", "npz"):
        with pytest.raises(psycopg.Error, match="not a") as refused:
            by_path(conn, visible(path), model)
        assert what in refused.value.diag.message_hint and str(path) in str(refused.value)
    assert nothing_left(conn, model)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"IQ== 0\nIg== 1\nIw== 2\n", "a vocabulary of tiktoken"),
        (b"[PAD]\n[unused0]\n[unused1]\n", "a WordPiece vocabulary of BERT"),
        (b"", "empty"),
    ],
)
def test_files_of_tokenizers_are_named(conn, folder, model, content, what):
    (folder / "m.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=what):
        over_connection(conn, folder / "m.bin", model)


def test_a_folder_of_tensorflow(conn, folder, model):
    for name in ["checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "hparams.json"]:
        (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="checkpoint of TensorFlow, which is not read"):
        over_connection(conn, folder, model)


@WAYS
@pytest.mark.parametrize("length", [0x7B, 0x280, 0x8B1F, 20240326])
def test_a_truncated_file_is_none_of_them(conn, folder, model, load, length):
    """The length of a header may have the first bytes of JSON, a pickle, gzip or llm.c's weights."""
    path = folder / "m.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"wte.weight":')
    with pytest.raises((psycopg.Error, CheckpointError), match="not a safetensors file") as error:
        load(conn, visible(path), model)
    assert "it is" not in str(error.value) and "This is" not in str(error.value)
