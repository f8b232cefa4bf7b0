"""The tokenizer against tiktoken and tokenizers; its loading, caching and rights over real connections."""

from __future__ import annotations

import csv
import json
import random
import runpy
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from helpers.paths import REPO

import pg_llm
from pg_llm.errors import KitError
from pg_llm.files import tokenizer

tiktoken = pytest.importorskip("tiktoken")
pytest.importorskip("tiktoken.load")
tokenizers = pytest.importorskip("tokenizers")

VOCAB, MERGES = tokenizer.gpt2_files()
# tiktoken's own pattern for GPT-2
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
CODE_POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]  # SQL text cannot contain NUL
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
ODD = (
    "'sdmtlverea1 é中\u0301\u0308\u200d\ufe0f🙂👩🏽‍🚀ⅧÂ½٣߀\u00ad\ufeff\uffff\U000e0001\U0010ffff\u1885\u16ee"
)


@pytest.fixture(scope="session")
def oracle():
    """GPT-2's tiktoken encoding, made from the two files."""
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(MERGES), encoder_json_file=str(VOCAB)
    )
    return tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


@pytest.fixture(scope="session")
def oracle2():
    """GPT-2's tokenizer by Hugging Face."""
    return tokenizers.ByteLevelBPETokenizer(str(VOCAB), str(MERGES), add_prefix_space=False)


def encode(conn, text: str, model: str = "gpt2", special: bool = False) -> list[int]:
    query = "SELECT llm_encode(%s, %s, %s)"
    return conn.execute(query, [text, model, special], binary=True).fetchone()[0]


def decode(conn, ids: list[int], model: str = "gpt2") -> str:
    return conn.execute("SELECT llm_decode(%s, %s)", [ids, model]).fetchone()[0]


def differs(ours: list[int], theirs: list[int], oracle) -> str:
    """The first difference of two encodings, for the failure's message."""
    shorter = min(len(ours), len(theirs))
    at = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    return f"token {at}: {ours[at : at + 5]} != {theirs[at : at + 5]} {oracle.decode(theirs[at : at + 5])!r}"


def check(conn, text: str, oracle, oracle2=None) -> None:
    ours, theirs = encode(conn, text), oracle.encode_ordinary(text)
    assert ours == theirs, differs(ours, theirs, oracle)
    if oracle2 is not None:
        theirs = oracle2.encode(text).ids
        assert ours == theirs, differs(ours, theirs, oracle)
    assert decode(conn, ours) == text


def random_text(seed: int, length: int) -> str:
    """Characters of all planes, repeated scripts, whitespace of every kind, mixed."""
    r = random.Random(seed)
    pieces = []
    for _ in range(length // 10):  # pieces of ten on average
        kind = r.randrange(6)
        n = r.randrange(1, 20)
        if kind == 0:
            pieces.append("".join(chr(c) for c in r.choices(CODE_POINTS, k=n)))
        elif kind == 1:
            start = r.randrange(1, 0x10FFC0)
            pieces.append("".join(chr(r.choice(range(start, start + 60))) for _ in range(n)))
        elif kind == 2:
            pieces.append("".join(r.choices(SPACES, k=n)))
        elif kind == 3:
            pieces.append("".join(r.choices(ODD, k=n)))
        elif kind == 4:
            pieces.append("".join(r.choices("etaoin shrdlu'.,ETAOIN0123\n", k=n)))
        else:
            pieces.append("".join(chr(c) for c in r.choices(range(1, 0x3000), k=n)))
    return "".join(pieces).encode(errors="ignore").decode()


# -- the oracles ----------------------------------------


def test_known_ids(conn):
    assert encode(conn, "Hello world!") == [15496, 995, 0]
    assert encode(conn, "") == []
    assert encode(conn, "<|endoftext|>", special=True) == [50256]
    assert encode(conn, "<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]


@pytest.mark.slow
def test_corpora(conn, oracle, oracle2, shared):
    """Three corpora and Python's own library: no difference, and decoding restores the text."""
    for path in sorted((shared / "data" / "corpora").glob("*.txt")):
        check(conn, path.read_text(), oracle, oracle2)
    folder = Path(json.__file__).parent.parent
    code = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.py"))[:120])
    check(conn, code.replace("\0", ""), oracle, oracle2)
    sources = "".join(path.read_text() for path in sorted((REPO / "extension").rglob("*.[ch]")))
    check(conn, sources, oracle, oracle2)


def test_vectors(conn, shared):
    """jtokkit's published encodings of 423 texts."""
    csv.field_size_limit(sys.maxsize)
    with open(shared / "data" / "vectors" / "jtokkit" / "r50k_base_encodings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 423
    for row in rows:
        assert encode(conn, row["input"]) == json.loads(row["output"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_unicode(conn, oracle, oracle2, seed):
    check(conn, random_text(seed, 100_000), oracle, oracle2)


def test_special_tokens(conn, oracle):
    r = random.Random(5)
    parts = ["<|endoftext|>", "<|endoftext", "|>", "<", " ", "\n", "hello", "  ", "<|", "é"]
    for _ in range(200):
        text = "".join(r.choices(parts, k=r.randrange(1, 12)))
        assert encode(conn, text, special=True) == oracle.encode(text, allowed_special="all")
        assert encode(conn, text) == oracle.encode_ordinary(text)


@pytest.mark.slow
def test_every_code_point(conn):
    """Letter, number, space or other: each code point of Unicode, assigned or not, as tokenizers sees it.

    Between an 'a' and a '1' a character joins the letter, the digit or neither; the pieces tell which.
    """
    regex = tokenizers.Regex(PATTERN.replace("++", "+"))
    split = tokenizers.pre_tokenizers.Split(regex, behavior="isolated")
    for start in range(0, len(CODE_POINTS), 100_000):
        part = "".join(f"a{chr(c)}1" for c in CODE_POINTS[start : start + 100_000])
        rows = conn.execute("SELECT array_agg(piece ORDER BY position) FROM llm_pretokenize(%s)", [part])
        assert rows.fetchone()[0] == [piece for piece, _ in split.pre_tokenize_str(part)]


def test_unicode_table_is_the_oracle():
    """The checked-in table is the output of its generator, which asks tiktoken about every code point."""
    formats = REPO / "extension" / "formats"
    made = runpy.run_path(str(formats / "unicode_table.py"))
    assert made["header"](made["classes"](), "16.0") == (formats / "unicode_table.h").read_text()


def test_decoding_broken_utf8(conn, oracle):
    """Invalid UTF-8 becomes U+FFFD where tiktoken puts it; the exact bytes are available too."""
    r = random.Random(9)
    for _ in range(300):
        ids = r.choices(range(256), k=r.randrange(1, 30)) + r.choices(range(50257), k=3)
        data = oracle.decode_bytes(ids)
        assert bytes(conn.execute("SELECT llm_decode_bytes(%s, 'gpt2')", [ids]).fetchone()[0]) == data
        assert decode(conn, ids) == oracle.decode(ids).replace("\0", "\ufffd")


def test_tokenize_and_steps_agree_with_encode(conn):
    """Pieces encoded one by one give the same tokens, and each piece's last step is its tokens."""
    for text in ["I'll  go; it's ½ past 中文 \n\n  ok  ", random_text(77, 400)]:
        ids = encode(conn, text)
        rows = conn.execute(
            "SELECT token_id FROM llm_tokenize(%s, 'gpt2') ORDER BY position", [text]
        ).fetchall()
        assert [row[0] for row in rows] == ids
        steps = conn.execute(
            """SELECT v.token_id FROM llm_pretokenize(%s) p,
                LATERAL (SELECT tokens FROM llm_bpe_steps(p.piece, 'gpt2') ORDER BY step DESC LIMIT 1) s,
                LATERAL unnest(s.tokens) WITH ORDINALITY t(token, n)
                JOIN llm_bpe_vocab v ON v.model = 'gpt2' AND v.token = t.token ORDER BY p.position, t.n""",
            [text],
        ).fetchall()
        assert [row[0] for row in steps] == ids


def test_merge_ranks_in_the_vocabulary(conn):
    """llm_bpe_vocab.rank is the merge that makes the token: 50000 of them, none for bytes and specials."""
    query = """SELECT count(*), count(v.rank), bool_and(v.rank = m.rank) FROM llm_bpe_vocab v
        LEFT JOIN llm_bpe_merges m ON m.model = v.model AND m.left_token || m.right_token = v.token
        WHERE v.model = 'gpt2'"""
    assert conn.execute(query).fetchone() == (50257, 50000, True)


# -- large and hostile ----------------------------------------


def test_a_megabyte_of_letters(conn, oracle):
    """One piece of a megabyte, of one letter and of many: exact and fast."""
    r = random.Random(3)
    assert encode(conn, "a" * 1_000_000) == oracle.encode_ordinary("a" * 100_000) * 10
    text = "".join(r.choices("abcdefghijklmnopqrstuvwxyz", k=20_000))
    assert encode(conn, text) == oracle.encode_ordinary(text)
    assert len(encode(conn, " " * 1_000_000)) == len(oracle.encode_ordinary(" " * 1_000_000))


def test_cancel_inside_one_piece(connect):
    """A cancel interrupts even the work on one huge piece."""
    conn = connect()
    timer = threading.Timer(0.3, conn.cancel)
    timer.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT llm_encode(repeat('ab', 8000000), 'gpt2')")
    conn.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        conn.execute("SELECT llm_encode(repeat('hello ', 40000000), 'gpt2')")


def test_memory_limit(connect):
    """A request beyond pg_llm.memory_limit is refused, and the session continues."""
    conn = connect()
    conn.execute("SET pg_llm.memory_limit = '64MB'")
    with pytest.raises(psycopg.errors.OutOfMemory):
        conn.execute("SELECT llm_encode(repeat('ab', 8000000), 'gpt2')")
    assert encode(conn, "Hello world!") == [15496, 995, 0]


# -- files and rows ----------------------------------------


@pytest.mark.slow
def test_client_side_load(conn, tmp_path):
    """load_tokenizer with two files or a folder, under both pairs of names; refused, or replaced."""
    assert pg_llm.load_tokenizer(conn, VOCAB, MERGES, "copy") == 50257
    assert encode(conn, "Hello world!", "copy") == [15496, 995, 0]
    assert pg_llm.load_tokenizer(conn, VOCAB, MERGES, "copy") == 50257  # the same again
    (tmp_path / "fewer.bpe").write_bytes(b"\n".join(MERGES.read_bytes().splitlines()[:-2]))
    with pytest.raises(psycopg.errors.DuplicateObject, match="already has 50257 tokens"):
        pg_llm.load_tokenizer(conn, VOCAB, tmp_path / "fewer.bpe", "copy")
    (tmp_path / "encoder.json").write_bytes(VOCAB.read_bytes())
    (tmp_path / "vocab.bpe").write_bytes(MERGES.read_bytes().replace(b"\n", b"\r\n"))
    assert pg_llm.load_tokenizer(conn, tmp_path, model="copy", truncate=True) == 50257
    same = """SELECT NOT EXISTS ((SELECT token_id, token, bytes, rank FROM llm_bpe_vocab WHERE model = 'copy')
        EXCEPT (SELECT token_id, token, bytes, rank FROM llm_bpe_vocab WHERE model = 'gpt2'))"""
    assert conn.execute(same).fetchone()[0]
    for arguments in [(tmp_path / "none", None, "x"), (VOCAB, tmp_path / "none", "x"), (VOCAB, MERGES, None)]:
        with pytest.raises(KitError):
            pg_llm.load_tokenizer(conn, *arguments)
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'copy'")
    conn.execute("DELETE FROM llm_bpe_merges WHERE model = 'copy'")


@pytest.fixture
def readable(home):
    """A folder whose files the server's user can read."""
    folder = home / "tokenizer-files"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return folder


@pytest.mark.slow
def test_server_side_load(conn, readable):
    """The two files by path on the server, in either order; merges are checked once both are loaded."""
    for source, name in [(VOCAB, "vocab.json"), (MERGES, "merges.txt")]:
        (readable / name).write_bytes(source.read_bytes())
        (readable / name).chmod(0o644)
    vocab, merges = str(readable / "vocab.json"), str(readable / "merges.txt")
    for model, order in [("one", "vm"), ("two", "mv")]:
        for which in order:
            kind, path, count = ("vocab", vocab, 50257) if which == "v" else ("merges", merges, 50000)
            query = f"SELECT pg_llm_load_bpe_{kind}(%s, %s)"
            assert conn.execute(query, [path, model]).fetchone()[0] == count
            with pytest.raises(psycopg.errors.DuplicateObject):
                conn.execute(query, [path, model])
        assert encode(conn, "Hello world!", model) == [15496, 995, 0]
        ranks = conn.execute("SELECT count(rank) FROM llm_bpe_vocab WHERE model = %s", [model])
        assert ranks.fetchone()[0] == 50000
    conn.execute("SELECT pg_llm_load_bpe_vocab(%s, 'one', true)", [vocab])
    assert encode(conn, "hi", "one") == [71, 72]  # its merges were removed with the old vocabulary
    (readable / "merges.txt").write_text("#version: 0.2\nhello worldly\n")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="merge 0 .*needs token"):
        conn.execute("SELECT pg_llm_load_bpe_merges(%s, 'one')", [merges])
    (readable / "vocab.json").write_bytes(VOCAB.read_bytes()[:500_000])
    with pytest.raises(psycopg.errors.InvalidBinaryRepresentation, match="byte 500000"):
        conn.execute("SELECT pg_llm_load_bpe_vocab(%s, 'three')", [vocab])
    with pytest.raises(psycopg.errors.WrongObjectType):
        conn.execute("SELECT pg_llm_load_bpe_vocab(%s, 'three')", [str(readable)])
    for model in ("one", "two"):
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model = %s", [model])
        conn.execute("DELETE FROM llm_bpe_merges WHERE model = %s", [model])


def test_character_models(conn, shared, tmp_path):
    """A vocabulary of plain characters, spaces and newlines too, encodes its model's own corpus."""
    for name, corpus in [("makemore-names-a", "corpus.txt"), ("slm-4096", "corpus.txt")]:
        folder = shared / "data" / "models" / name
        chars = json.loads((folder / "chars.json").read_text())["chars"]
        first = 1 if name.startswith("makemore") else 0
        (tmp_path / "vocab.json").write_text(json.dumps({c: i + first for i, c in enumerate(chars)}))
        pg_llm.load_tokenizer(conn, tmp_path / "vocab.json", None, name)
        text = (folder / corpus).read_text()
        text = text.split("\n")[0] if first else text
        ids = encode(conn, text, name)
        assert ids == [chars.index(c) + first for c in text]
        assert decode(conn, ids, name) == text
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="'@'|\"@\" .*position 1 is no token"):
            encode(conn, "@", name)
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model = %s", [name])


# -- versions, sessions, rights ----------------------------------------


def toy(conn, model: str) -> None:
    conn.execute("SELECT pg_llm_load_bpe(%b, %b, %s, true)", [b'{"a": 0, "b": 1, "ab": 2}', b"a b", model])


def test_rows_under_a_models_own_name_win(connect):
    """Loaded or trained, with a NOTICE that says so; everywhere that a model's tokenizer is read."""
    conn = connect()
    notices: list[str] = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    toy(conn, "toy")
    conn.execute("SELECT llm_create_model('own', 1, 1, 4, 8, 257, tokenizer => 'toy')")
    conn.execute("SELECT llm_init_model('own', 1)")
    conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('own', '{0}', '{2}')")
    characters = "SELECT _llm_dataset_characters('own', 'own')"
    assert (encode(conn, "ab", "own"), notices) == ([2], [])
    assert conn.execute(characters).fetchone() == (2,)
    try:
        vocab = b'{"ab": 0, "a": 1, "b": 2, "<|endoftext|>": 3}'
        conn.execute("SELECT pg_llm_load_bpe(%b, NULL, 'own')", [vocab])
        assert notices == ['model "own" now has a tokenizer of its own, and no longer uses "toy"']
        assert encode(conn, "ab", "own") == [1, 2] and decode(conn, [0], "own") == "ab"
        assert conn.execute(characters).fetchone() == (1,)
        for query, value in [("llm_tokenizer('own')", "own"), ("llm_end_token('own')", 3)]:
            assert conn.execute(f"SELECT {query}").fetchone() == (value,)
        assert conn.execute("SELECT llm_export_config('own') ->> 'tokenizer'").fetchone() == ("own",)
        conn.execute(
            "SELECT llm_quantize('own', 'bf16', 'copy'), llm_checkpoint_save('own', location => 'database')"
        )
        conn.execute("SELECT llm_checkpoint_load('again', max(id)) FROM llm_checkpoint")
        used = "SELECT tokenizer FROM llm_model_config WHERE model IN ('copy', 'again')"
        assert conn.execute(used).fetchall() == [("own",), ("own",)]
        conn.execute("SELECT llm_bpe_train($$SELECT 'aaaa aaaa'$$, 257, 'own', truncate => true)")
        assert len(notices) == 2 and decode(conn, [255], "own") == decode(conn, [255], "again")
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'own'")
        assert encode(conn, "ab", "own") == [2]
        assert conn.execute("SELECT llm_tokenizer('gpt2-small'), llm_tokenizer('none')").fetchone() == (
            "gpt2",
            None,
        )
    finally:
        conn.execute("DELETE FROM llm_model_config WHERE model IN ('own', 'copy', 'again')")
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model IN ('own', 'toy')")
        conn.execute("DELETE FROM llm_bpe_merges WHERE model IN ('own', 'toy')")


def test_other_sessions(connect):
    """Others see a change when it commits, a REPEATABLE READ transaction never, none after a rollback."""
    writer, reader, repeatable = connect(), connect(), connect()
    toy(writer, "toy")
    assert encode(reader, "ab", "toy") == [2]
    repeatable.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert encode(repeatable, "ab", "toy") == [2]
    writer.execute("BEGIN")
    writer.execute("DELETE FROM llm_bpe_merges WHERE model = 'toy'")
    assert encode(writer, "ab", "toy") == [0, 1]
    assert encode(reader, "ab", "toy") == [2]
    writer.execute("COMMIT")
    assert encode(reader, "ab", "toy") == [0, 1]
    assert encode(repeatable, "ab", "toy") == [2]
    repeatable.execute("SAVEPOINT s")
    assert encode(repeatable, "ab", "toy") == [2]
    repeatable.execute("ROLLBACK TO s")
    assert encode(repeatable, "ab", "toy") == [2]
    repeatable.execute("COMMIT")
    assert encode(repeatable, "ab", "toy") == [0, 1]
    writer.execute("BEGIN")
    writer.execute("UPDATE llm_bpe_vocab SET token_id = 7 WHERE model = 'toy' AND token = 'a'")
    assert encode(writer, "ab", "toy") == [7, 1]
    writer.execute("ROLLBACK")
    assert encode(writer, "ab", "toy") == encode(reader, "ab", "toy") == [0, 1]


def test_repeatable_read_and_savepoints(connect):
    """Inside a REPEATABLE READ transaction its own changes count until their savepoint is rolled back."""
    conn = connect()
    toy(conn, "toy")
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert encode(conn, "ab", "toy") == [2]
    conn.execute("SAVEPOINT s")
    conn.execute("DELETE FROM llm_bpe_merges WHERE model = 'toy'")
    assert encode(conn, "ab", "toy") == [0, 1]
    conn.execute("ROLLBACK TO s")
    assert encode(conn, "ab", "toy") == [2]
    conn.execute("COMMIT")


def test_many_tokenizers(connect):
    """More tokenizers than a session caches, used in turn: each gives its own results."""
    conn = connect()
    for i in range(12):
        vocab = b'{"a": %d, "b": 1000, "ab": 1001}' % i
        conn.execute("SELECT pg_llm_load_bpe(%b, NULL, %s, true)", [vocab, f"toy{i}"])
    for i in [*range(12), *range(12)]:
        assert encode(conn, "ab", f"toy{i}") == [i, 1000]
    query = "SELECT i, llm_encode('ab', 'toy' || i) FROM generate_series(0, 11) i, generate_series(1, 3)"
    assert all(ids == [i, 1000] for i, ids in conn.execute(query))
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model LIKE 'toy%'")


@pytest.mark.slow
def test_any_role_that_may_write(conn, connect):
    """Over the connection a role needs no right to server files, only to write the tables."""
    conn.execute("DROP ROLE IF EXISTS tokenizer_teacher")
    conn.execute("CREATE ROLE tokenizer_teacher")
    try:
        conn.execute("GRANT SELECT, INSERT, DELETE ON llm_bpe_vocab, llm_bpe_merges TO tokenizer_teacher")
        conn.execute("GRANT SELECT ON llm_model_config, llm_model_version TO tokenizer_teacher")
        teacher = connect()
        teacher.execute("SET ROLE tokenizer_teacher")
        assert tokenizer.load_tokenizer(teacher, VOCAB, MERGES, "taught") == 50257
        assert encode(teacher, "Hello world!", "taught") == [15496, 995, 0]
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied to read file"):
            teacher.execute("SELECT pg_llm_load_bpe_vocab(%s, 'x')", [str(VOCAB)])
        teacher.execute("DELETE FROM llm_bpe_vocab WHERE model = 'taught'")
        teacher.execute("DELETE FROM llm_bpe_merges WHERE model = 'taught'")
    finally:
        conn.execute("DROP OWNED BY tokenizer_teacher")
        conn.execute("DROP ROLE tokenizer_teacher")


def test_dropped_extension(connect):
    """Dropped with the extension; a new one starts without it."""
    conn = connect()
    toy(conn, "toy")
    conn.execute("BEGIN")
    conn.execute("DROP EXTENSION pg_llm CASCADE")
    conn.execute("CREATE EXTENSION pg_llm")
    with pytest.raises(psycopg.errors.UndefinedObject):
        encode(conn, "ab", "toy")
    conn.execute("ROLLBACK")
    assert encode(conn, "ab", "toy") == [2]


def test_other_encoding(conn):
    """A LATIN1 database: characters of Latin-1 work; others become '?'."""
    where = {"host": conn.info.host, "port": conn.info.port, "user": conn.info.user, "autocommit": True}
    conn.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    try:
        with psycopg.connect(dbname="latin", client_encoding="UTF8", **where) as latin:
            latin.execute("CREATE EXTENSION pg_llm")
            vocab = b'{"\\u00c3": 0, "\\u00a9": 1, "a": 2, "\\u00c3\\u00a9": 3, "\\u00e2": 4}'
            latin.execute("SELECT pg_llm_load_bpe(%b, %b, 'latin', false)", [vocab, "Ã ©".encode()])
            assert encode(latin, "aé", "latin") == [2, 3]
            assert decode(latin, [2, 3], "latin") == "aé"
            assert decode(latin, [2, 4, 2], "latin") == "a?a"
            pieces = latin.execute("SELECT array_agg(piece ORDER BY position) FROM llm_pretokenize('é à')")
            assert pieces.fetchone()[0] == ["é", " à"]
            with pytest.raises(psycopg.errors.UntranslatableCharacter):
                tokenizer.load_tokenizer(latin, VOCAB, MERGES, "gpt2")
    finally:
        conn.execute("DROP DATABASE latin WITH (FORCE)")


def test_parallel_workers(connect):
    """Workers compile their own tokenizer and give the same results."""
    conn = connect()
    conn.execute("CREATE TEMP TABLE unused ()")
    conn.execute("CREATE TABLE lines AS SELECT 'line ' || g AS text FROM generate_series(1, 20000) g")
    conn.execute("SET max_parallel_workers_per_gather = 0")
    query = "SELECT sum(cardinality(llm_encode(text, 'gpt2'))) FROM lines"
    alone = conn.execute(query).fetchone()
    conn.execute("SET max_parallel_workers_per_gather = 2")
    conn.execute("SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0")
    plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {query}"))
    assert "Gather" in plan
    assert conn.execute(query).fetchone() == alone
    conn.execute("DROP TABLE lines")
