"""Text as training rows: llm_dataset_load and pg-llm prepare-dataset, which must agree token by token."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import threading

import numpy as np
import psycopg
import pytest
from helpers.paths import REPO

from pg_llm.errors import KitError
from pg_llm.files import dataset as datasets
from pg_llm.files.dataset import Blocks, cut, find_inputs, pieces, prepare_dataset

pytestmark = pytest.mark.slow

ODD = "ab'sll 12 .,-\t\n\r  \u00a0é中。🙂\u2028\x1c"


def rows(conn, dataset: str) -> list[tuple[str, list[int], list[int]]]:
    query = "SELECT dataset, tokens, target FROM llm_dataset WHERE dataset IN (%s, %s) ORDER BY id"
    return conn.execute(query, [dataset, dataset + "-validation"]).fetchall()


def stream(found) -> list[int]:
    """The stream of ids from which rows without overlap and validation were cut."""
    ids = [token for _, tokens, _ in found for token in tokens]
    last = [target for _, _, targets in found for target in targets if target >= 0]
    return ids[: len(last)] + last[-1:]


def encode(conn, text: str) -> list[int]:
    return conn.execute("SELECT llm_encode(%s, 'gpt2')", [text]).fetchone()[0]


def random_text(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(ODD, k=length))


# -- pieces --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_text_cut_anywhere_has_the_tokens_of_the_whole(conn, seed):
    """Every position that cut() returns, in text made of difficult cases."""
    text = random_text(seed, 120)
    whole = encode(conn, text)
    places = {cut(text, limit) for limit in range(1, len(text) + 1)} - {0}
    assert len(places) > 10
    for at in places:
        assert encode(conn, text[:at]) + encode(conn, text[at:]) == whole, (text[:at], text[at:])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("separator", [None, "\n\n", "<|endoftext|>"])
def test_pieces_do_not_depend_on_how_text_arrives(seed, separator, monkeypatch):
    monkeypatch.setattr(datasets, "PIECE", 40)
    r = random.Random(seed)
    text = "".join(r.choice([random_text(r.random(), 30), separator or "", " "]) for _ in range(30))
    arrivals, at = [], 0
    while at < len(text):
        arrivals.append(text[at : at + r.randrange(1, 50)])
        at += len(arrivals[-1])
    documents, document = [], ""
    for piece, ends in pieces(arrivals, separator):
        document += piece
        if ends:
            documents.append(document)
            document = ""
    assert documents == (text.split(separator) if separator else [text])


def test_memory_does_not_grow_with_the_file(conn, tmp_path, monkeypatch):
    """Memory holds a piece, a read and a row, never the whole file."""
    monkeypatch.setattr(datasets, "PIECE", 5000)
    monkeypatch.setattr(datasets, "READ", 3000)
    sizes = []
    original = datasets.pieces

    def watched(*arguments):
        for piece in original(*arguments):
            sizes.append(len(piece[0]))
            yield piece

    monkeypatch.setattr(datasets, "pieces", watched)
    path = tmp_path / "long.txt"
    path.write_text("some words in a line\n" * 20_000)
    prepare_dataset(conn, [path], "gpt2", "long", block_size=64, progress=False)
    assert len(sizes) > 50
    assert max(sizes) <= 8000


# -- rows ----------------------------------------------------------------------------------


def test_a_file_gives_the_tokens_of_its_whole_text(conn, shared, tmp_path):
    path = shared / "data" / "corpora" / "tinyshakespeare.txt"
    done = prepare_dataset(conn, [path], "gpt2", "plays", block_size=1000, progress=False)
    ids = encode(conn, path.read_text()) + [50256]
    found = rows(conn, "plays")
    assert stream(found) == ids
    assert done == (1, len(ids), len(found), 0, 1000, 50256)
    assert all(len(tokens) == len(target) == 1000 for _, tokens, target in found)
    joined = [token for _, tokens, _ in found for token in tokens]
    shifted = [target for _, _, targets in found for target in targets]
    assert shifted[: len(ids) - 1] == joined[1 : len(ids) - 1] + [50256]


@pytest.mark.parametrize("overlap", [0, 1, 5, 15])
@pytest.mark.parametrize("validation", [0, 0.1, 0.5])
def test_the_database_makes_the_same_rows(conn, tmp_path, overlap, validation, monkeypatch):
    """llm_dataset_load of the same texts, in the same order."""
    monkeypatch.setattr(datasets, "PIECE", 100)
    texts = [random_text(n, 700) + "the end." for n in range(4)]
    for n, text in enumerate(texts):
        (tmp_path / f"{n}.txt").write_text(text, newline="")
    done = prepare_dataset(
        conn,
        [tmp_path / "*.txt"],
        "gpt2",
        "files",
        block_size=16,
        overlap=overlap,
        validation=validation,
        truncate=True,
        progress=False,
    )
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS texts (n int, body text)")
    conn.execute("TRUNCATE texts")
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO texts VALUES (%s, %s)", list(enumerate(texts)))
    query = "SELECT * FROM llm_dataset_load('texts', 'SELECT body FROM texts ORDER BY n', 'gpt2', 16, "
    query += "%s, %s, truncate => true)"
    loaded = conn.execute(query, [overlap, validation]).fetchone()
    assert loaded == done[:4]
    strip = [(name.removeprefix("texts"), *ids) for name, *ids in rows(conn, "texts")]
    assert strip == [(name.removeprefix("files"), *ids) for name, *ids in rows(conn, "files")]
    assert loaded[3] == round(loaded[2] * validation + 1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_every_target_is_in_a_row_and_validation_shares_none(seed):
    r = random.Random(seed)
    block = r.randrange(1, 12)
    overlap = r.randrange(block)
    validation = r.choice([0, 0.1, 0.3, 0.7])
    n = r.randrange(2, 200)
    blocks = Blocks(block, overlap, validation, None)
    found = []
    for at in range(0, n, 7):
        blocks.add(np.arange(at, min(at + 7, n), dtype=np.int32))
        found += blocks.take()
    found += blocks.take_rest()
    held = {int(t) for row in found if row.held_out for t in row.target if t >= 0}
    trained = {int(t) for row in found if not row.held_out for t in row.target if t >= 0}
    assert held | trained == set(range(1, n))
    assert not held & trained
    assert sum(int((row.target >= 0).sum()) for row in found) == n - 1  # overlapping targets are context
    for row in found:
        real = row.target >= 0
        assert (row.target[real] == row.tokens[real] + 1).all()
        assert len(row.tokens) == len(row.target) == block


def test_separator_truncate_and_append(conn, tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("one two<|endoftext|>three<|endoftext|>")
    done = prepare_dataset(
        conn, [path], "gpt2", "stories", block_size=4, separator="<|endoftext|>", progress=False
    )
    assert done.documents == 2
    assert stream(rows(conn, "stories")) == encode(conn, "one two") + [50256] + encode(conn, "three") + [
        50256
    ]
    prepare_dataset(conn, [path], "gpt2", "stories", block_size=4, progress=False)
    assert len(rows(conn, "stories")) > done.rows
    prepare_dataset(conn, [path], "gpt2", "stories", block_size=100, truncate=True, progress=False)
    assert len(rows(conn, "stories")) == 1


def test_all_or_nothing(conn, tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "later.txt"
    good.write_text("good words " * 1000)
    bad.write_bytes(b"fine until here \xff")
    with pytest.raises(KitError, match=r"later.txt is not UTF-8: byte 16 is 0xff"):
        prepare_dataset(conn, [good, bad], "gpt2", "both", block_size=8, progress=False)
    assert rows(conn, "both") == []


def test_a_character_between_two_reads(conn, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "READ", 1)
    path = tmp_path / "one.txt"
    path.write_text("é中🙂")
    prepare_dataset(conn, [path], "gpt2", "wide", block_size=50, progress=False)
    assert stream(rows(conn, "wide")) == encode(conn, "é中🙂") + [50256]
    path.write_bytes(b"abc\xe4\xb8")
    with pytest.raises(KitError, match=r"not UTF-8: byte 3 is 0xe4"):
        prepare_dataset(conn, [path], "gpt2", "wide", block_size=50, progress=False)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_byte_order_marks(conn, tmp_path, monkeypatch, size):
    monkeypatch.setattr(datasets, "READ", size)
    path = tmp_path / "one.txt"
    path.write_text("one \ufefftwo", "utf-8-sig")  # another is a character of the text
    prepare_dataset(conn, [path], "gpt2", "mark", block_size=50, truncate=True, progress=False)
    assert stream(rows(conn, "mark")) == encode(conn, "one \ufefftwo") + [50256]
    path.write_text("one two", "utf-16")
    with pytest.raises(KitError, match=r"not UTF-8: byte 0 is 0xff; .* -f UTF-16"):
        prepare_dataset(conn, [path], "gpt2", "mark", block_size=50, progress=False)


def test_what_is_refused(conn, tmp_path):
    empty, nul = tmp_path / "empty.txt", tmp_path / "nul.txt"
    empty.write_text("")
    nul.write_bytes(b"a\0b")
    cases = [
        (["nothing-*.txt"], {}, "there is no file nothing-"),
        ([tmp_path], {}, "is a folder; name its files"),
        ([], {}, "there is no input"),
        (["-", "-"], {}, "only once"),
        ([empty], {}, "there is no text in"),
        ([nul], {}, "holds a NUL"),
        ([empty], {"block_size": 0}, "block size is 0"),
        ([empty], {"block_size": 8, "overlap": 8}, "overlap is 8, expected 0 to 7"),
        ([empty], {"block_size": 8, "validation": 1.0}, "validation is 1"),
        ([empty], {"separator": ""}, "separator is empty"),
        ([empty], {"block_size": None}, "gpt2 is no model"),
        ([empty], {"tokenizer": "nobody"}, "no tokenizer nobody; there are classroom, gpt2"),
        ([empty], {"tokenizer": "gpt-2"}, "no tokenizer gpt-2; did you mean gpt2?"),
        ([empty], {"tokenizer": "gpt2-small", "block_size": 1025}, "reads at most 1024"),
    ]
    for inputs, arguments, message in cases:
        arguments = {"tokenizer": "gpt2", "dataset": "refused", "block_size": 8, **arguments}
        with pytest.raises(KitError, match=message):
            prepare_dataset(conn, inputs, **arguments, progress=False)
    assert rows(conn, "refused") == []


def write_ids(path, ids, kind):
    """A file of ids as nanoGPT, llm.c (for GPT-2 and for Llama 3) and build-nanogpt write it."""
    if kind == "numpy":
        np.save(path, np.array(ids, np.uint16))
        return path
    header = np.zeros(256, "<i4")
    header[:3] = {"llm.c": [20240520, 1, len(ids)], "llama": [20240801, 7, len(ids)]}.get(kind, [0, 0, 0])
    data = np.array(ids, "<u4" if kind == "llama" else "<u2").tobytes()
    path.write_bytes(data if kind == "nanoGPT" else header.tobytes() + data)
    return path


@pytest.mark.parametrize("kind", ["nanoGPT", "llm.c", "llama", "numpy"])
def test_a_file_of_ids_has_the_rows_of_its_text(conn, tmp_path, kind, monkeypatch):
    """The end token after the last document is one, whether the file has it or not."""
    monkeypatch.setattr("pg_llm.files.token_file.PIECE", 7)
    texts = [random_text(seed, 300) for seed in (1, 2)]
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(texts), newline="")
    made = prepare_dataset(
        conn, [tmp_path / "text.txt"], "gpt2", f"text-{kind}", block_size=8, separator="<|endoftext|>"
    )
    ids = encode(conn, texts[0]) + [50256] + encode(conn, texts[1])
    expected = [row[1:] for row in rows(conn, f"text-{kind}")]
    for end in ([], [50256]):
        path = write_ids(tmp_path / ("ids.npy" if kind == "numpy" else "ids.bin"), ids + end, kind)
        done = prepare_dataset(conn, [path], "gpt2", f"ids-{kind}", block_size=8, truncate=True)
        assert [row[1:] for row in rows(conn, f"ids-{kind}")] == expected
        assert done == made._replace(documents=1)


def test_files_of_ids_that_are_refused(conn, tmp_path):
    path = tmp_path / "ids.bin"

    def refused(match):
        with pytest.raises(KitError, match=match) as error:
            prepare_dataset(conn, [path], "gpt2", "refused", block_size=8)
        assert path.name in str(error.value) and not rows(conn, "refused")

    write_ids(path, [1, 2, 60000, 3], "nanoGPT")
    refused("id 60000 at position 2 is no token of gpt2, whose ids end at 50256")
    path.write_bytes(b"abc")
    refused("has 3 bytes, which are no whole number of uint16 ids")
    path.write_bytes(b"")
    refused("there is no text in")
    write_ids(path, [1, 2, 3], "llm.c")
    path.write_bytes(path.read_bytes()[:-2])
    refused("has 1028 bytes, expected 1030 for its 3 tokens")
    path.write_bytes(np.array([20240326, 3] + [0] * 254, "<i4").tobytes())
    refused("is a file of llm.c with weights, which load_model reads, expected tokens")
    for kind in ("<u4", "<i8"):
        path.write_bytes(np.arange(1, 101).astype(kind).tobytes())
        refused(
            "every second id is at most 0, as of uint32 or int64 ids read as uint16; write the file as uint16"
        )
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    refused("is a Git LFS pointer, .*; expected uint16 ids")
    path = tmp_path / "ids.npy"
    for wrong, match in [(np.zeros((2, 2), int), r"shape \(2, 2\)"), (np.zeros(2), "an array of float64")]:
        np.save(path, wrong)
        refused(match)
    np.save(path, np.array([1, -1]))
    refused("id -1 at position 1")
    np.save(path, np.array([{}]), allow_pickle=True)
    refused("cannot read .*ids.npy")
    path.write_bytes(b"\x80\x04K\x01.")
    refused("is a Python pickle, which can contain code and is not opened; expected a .npy array of ids")


def test_patterns_are_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "d.txt").mkdir()
    found = find_inputs([tmp_path / "c.md", str(tmp_path / "*.txt")])
    assert [path.name for path in found] == ["c.md", "a.txt", "b.txt"]


def test_standard_input(conn, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"so it goes")))
    done = prepare_dataset(conn, ["-"], "gpt2", "stdin", block_size=8, progress=False)
    assert done.documents == 1
    assert stream(rows(conn, "stdin")) == encode(conn, "so it goes") + [50256]


def test_the_command(conn, server, database, tmp_path):
    live = server.start()
    dsn = f"host={live.socket_dir} port={live.port} user=postgres dbname={database}"
    (tmp_path / "one.txt").write_text("one two three " * 50)
    command = [sys.executable, "-m", "pg_llm", "prepare-dataset", "--dsn", dsn, "--tokenizer", "gpt2-small"]
    command += ["--input", str(tmp_path / "*.txt"), "--input", "-", "--block-size", "32", "--truncate"]
    done = subprocess.run(
        [*command, "--dataset", "mine", "--validation", "0.2"],
        input="and more",
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "dataset mine: 2 documents, 155 tokens, 5 rows of 32, 1 of them in mine-validation, "
        f"in database {database}\n"
    )
    assert len(rows(conn, "mine")) == 5
    own = subprocess.run(command, input="", capture_output=True, text=True, cwd=REPO, timeout=120)
    assert own.stdout == f"dataset default: 1 document, 152 tokens, 5 rows of 32, in database {database}\n"
    bad = subprocess.run(
        [*command[:-3], "--block-size", "9999"],
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=120,
        input="",
    )
    assert bad.returncode == 1
    assert bad.stderr.startswith("pg-llm: block size is 9999, and model gpt2-small reads at most 1024 tokens")


def test_loading_in_the_database_can_be_canceled(conn):
    texts = "SELECT repeat(md5(n::text), 100) FROM generate_series(1, 10000000) n"
    query = f"SELECT llm_dataset_load('x', '{texts}', 'gpt2', 64)"
    threading.Timer(1, conn.cancel).start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute(query)
    assert rows(conn, "x") == []
