"""Tokenizers made by tokenizers and transformers load to the same ids, and those written here load there."""

from __future__ import annotations

import json
import random
from pathlib import Path

import psycopg
import pytest

import pg_llm
from pg_llm.errors import KitError
from pg_llm.files import dataset, tokenizer

tokenizers = pytest.importorskip("tokenizers")
pre, normalizers = tokenizers.pre_tokenizers, tokenizers.normalizers

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ALPHABET = (
    *"abcXYZ012٣½²Ⅷ'\u017f’.,-—<|>[]()é中文한ा\u0301\u0338\u200d🙂 \u00a0\u3000\t\v\r\n",
    *("'s", "'LL", "'\u017f", "n't", "  ", "\r\n", "\n\n", " \n ", "123", " 12345", "Hello", " world"),
)


def bytes_only(regex: str):
    """A Split by this pattern, then the bytes' text form, as cl100k's descendants have it."""
    split = pre.Split(tokenizers.Regex(regex), behavior="isolated", invert=False)
    return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = {
    "gpt2": lambda: pre.ByteLevel(add_prefix_space=False),
    "gpt2 as a Split": lambda: bytes_only(GPT2),
    "digits": lambda: pre.Sequence([pre.Digits(individual_digits=False), pre.ByteLevel(False)]),
    "digits one by one": lambda: pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(False)]),
    "cl100k": lambda: bytes_only(CL100K),
    "qwen2": lambda: bytes_only(QWEN2),
}


@pytest.fixture(scope="module")
def gpt2():
    """GPT-2's vocabulary and merges, for tokenizers of the same tokens and another pattern."""
    vocab, merges = tokenizer.gpt2_files()
    lines = merges.read_text("utf-8").split("\n")[1:]
    return json.loads(vocab.read_text("utf-8")), [tuple(line.split()) for line in lines if line]


@pytest.fixture
def conn(connect):
    """A connection whose database forgets the tokenizers that a test made."""
    conn = connect()
    yield conn
    for table in ("llm_bpe_vocab", "llm_bpe_merges", "llm_bpe_config"):
        conn.execute(f"DELETE FROM {table} WHERE model IN ('t', 'again')")
    conn.execute("DELETE FROM llm_model_config WHERE model = 't'")


def made(gpt2, name: str = "gpt2", **options) -> tokenizers.Tokenizer:
    """GPT-2's tokens with one of the pre-tokenizers above."""
    vocab, merges = gpt2
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges, **options))
    made.pre_tokenizer = PRE_TOKENIZERS[name]()
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def load(conn, oracle, folder: Path, model: str = "t") -> int:
    oracle.save(str(folder / "tokenizer.json"))
    return pg_llm.load_tokenizer(conn, folder, model=model, truncate=True)


def encode(conn, text: str, model: str = "t", special: bool = True) -> list[int]:
    query = "SELECT llm_encode(%s, %s, %s)"
    return conn.execute(query, [text, model, special], binary=True).fetchone()[0]


def texts(seed: int, count: int, parts=ALPHABET) -> list[str]:
    r = random.Random(seed)
    return ["".join(r.choices(parts, k=r.randrange(1, 25))) for _ in range(count)]


def same(conn, oracle, cases, model: str = "t") -> None:
    """The same ids as the oracle's, with special tokens and without; rows of llm_tokenize agree."""
    for text in cases:
        oracle.encode_special_tokens = False
        assert encode(conn, text, model) == oracle.encode(text, add_special_tokens=False).ids, repr(text)
        oracle.encode_special_tokens = True
        plain = oracle.encode(text, add_special_tokens=False).ids
        assert encode(conn, text, model, special=False) == plain, repr(text)
    rows = conn.execute(
        "SELECT array_agg(token_id ORDER BY position) FROM llm_tokenize(%s, %s)", [cases[-1], model]
    )
    assert rows.fetchone()[0] == plain


@pytest.mark.slow
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(conn, gpt2, tmp_path, name):
    """Each pattern, on texts of its own borders; written out and loaded again it is the same."""
    oracle = made(gpt2, name)
    assert load(conn, oracle, tmp_path) == 50257
    same(conn, oracle, texts(1, 1500))
    again = tokenizers.Tokenizer.from_file(str(pg_llm.save_tokenizer(conn, tmp_path / "saved", "t")[0]))
    for text in texts(2, 300):
        assert again.encode(text).ids == oracle.encode(text).ids
        assert again.decode(again.encode(text).ids) == text
    assert pg_llm.load_tokenizer(conn, tmp_path / "saved", model="again") == 50257
    same(conn, oracle, texts(3, 100), "again")


@pytest.mark.slow
def test_normal_form_and_whole_pieces(conn, gpt2, tmp_path):
    """Qwen's NFC, and Llama's ignore_merges: a piece that is a token is that token."""
    vocab, merges = gpt2
    without = [m for m in merges if "".join(m) not in ("Ġworld", "Hello")]
    oracle = made((vocab, without), "qwen2", ignore_merges=True)
    oracle.normalizer = normalizers.Sequence([normalizers.NFC()])
    load(conn, oracle, tmp_path)
    same(conn, oracle, [*texts(4, 500), "e\u0301" * 70_000, "가" * 3, "\u0301e", "", "Hello world"])
    config = "SELECT pattern, ignore_merges, normalizer FROM llm_bpe_config WHERE model = 't'"
    assert conn.execute(config).fetchone() == ("qwen2", True, "NFC")
    again = tokenizers.Tokenizer.from_file(str(pg_llm.save_tokenizer(conn, tmp_path / "saved", "t")[0]))
    same(conn, again, texts(5, 100))
    load(conn, made(gpt2), tmp_path)  # which is GPT-2's again
    assert conn.execute(config).fetchone() is None


ADDED = ["[PAD]", "<s>", "<speaker1>", "<|im start|>", "é中", "\n", "COVID", "hello", "<speaker"]


@pytest.mark.slow
def test_added_and_special_tokens(conn, gpt2, tmp_path):
    """Special ones where they are asked for, others always, the longest first; rows say which."""
    oracle = made(gpt2)
    oracle.add_special_tokens(["<|endoftext|>", *ADDED[:4]])
    oracle.add_tokens(ADDED[4:])
    assert load(conn, oracle, tmp_path) == 50257 + len(ADDED) - 1  # 'hello' was there
    parts = (*ALPHABET, *ADDED, "<|endoftext|>", "[PA", "<speaker2>", "COVID-19", "\n\n")
    same(conn, oracle, texts(6, 800, parts))
    rows = conn.execute("SELECT token, bytes, special FROM llm_bpe_vocab WHERE model = 't' AND added")
    found = {token: special for token, content, special in rows if content == token.encode()}
    assert found == {t: t in ("<|endoftext|>", *ADDED[:4]) for t in ("<|endoftext|>", *ADDED)}
    ids = oracle.encode("".join(ADDED)).ids
    assert conn.execute("SELECT llm_decode(%s, 't')", [ids]).fetchone()[0] == "".join(ADDED)
    again = tokenizers.Tokenizer.from_file(str(pg_llm.save_tokenizer(conn, tmp_path / "saved", "t")[0]))
    same(conn, again, texts(7, 200, parts))


@pytest.mark.slow
def test_a_folder_of_transformers(conn, tmp_path):
    """What save_pretrained writes; and the files of older versions, in which there is no tokenizer.json."""
    transformers = pytest.importorskip("transformers")
    vocab, merges = map(str, tokenizer.gpt2_files())
    oracle = transformers.GPT2Tokenizer(vocab=vocab, merges=merges)
    oracle.add_special_tokens(
        {"pad_token": "[PAD]", "additional_special_tokens": ["<speaker1>", "<speaker2>"]}
    )
    oracle.add_tokens(["COVID"])
    oracle.save_pretrained(tmp_path)
    older = tmp_path / "older"
    older.mkdir()
    (older / "vocab.json").write_bytes(Path(vocab).read_bytes())
    (older / "merges.txt").write_bytes(Path(merges).read_bytes())
    added = {t: oracle.convert_tokens_to_ids(t) for t in ("[PAD]", "<speaker1>", "<speaker2>", "COVID")}
    (older / "added_tokens.json").write_text(json.dumps(added))
    specials = {"pad_token": {"content": "[PAD]", "lstrip": False}, "eos_token": "<|endoftext|>"}
    specials["additional_special_tokens"] = ["<speaker1>", "<speaker2>"]
    (older / "special_tokens_map.json").write_text(json.dumps(specials), "utf-8-sig")
    text = "<speaker1>Hello[PAD] world<|endoftext|><speaker2> COVID-19"
    for folder in (tmp_path, older):
        assert pg_llm.load_tokenizer(conn, folder, model="t", truncate=True) == 50261
        assert encode(conn, text) == oracle(text).input_ids
        assert encode(conn, text, special=False) == oracle(text, split_special_tokens=True).input_ids
    pg_llm.save_tokenizer(conn, tmp_path / "saved", "t")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(text).input_ids == oracle(text).input_ids
    (older / "special_tokens_map.json").write_text('{"pad_token": "[none]"}')
    notices: list[str] = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    pg_llm.load_tokenizer(conn, older, model="t", truncate=True)
    assert notices == ['special token "[none]" has no id in any file, and is left out']


def test_small_vocabularies(conn, tmp_path):
    """Merges as strings or pairs, a vocabulary of characters, a trained one with any special tokens."""
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "Ġ": 2, "ab": 3}, [("a", "b")]))
    oracle.pre_tokenizer = pre.ByteLevel(False)
    load(conn, oracle, tmp_path)
    same(conn, oracle, ["ab ba", "aab", " "])
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    pg_llm.load_tokenizer(conn, tmp_path / "tokenizer.json", model="t", truncate=True)
    same(conn, oracle, ["ab ba"])
    characters = tokenizers.Tokenizer(tokenizers.models.BPE({"é": 0, " ": 1, "中": 2, "ÿ": 3}, []))
    load(conn, characters, tmp_path)
    same(conn, characters, ["é 中ÿ", "中  é"])
    again = tokenizers.Tokenizer.from_file(str(pg_llm.save_tokenizer(conn, tmp_path / "saved", "t")[0]))
    same(conn, again, ["é 中ÿ"])
    assert again.decode([0, 1, 2]).replace(" ", "") == "é中"
    conn.execute("SELECT llm_bpe_train($$SELECT 'low lower é [x]low'$$, 262, 't', '{[x],<é>}', true)")
    trained = tokenizers.Tokenizer.from_file(str(pg_llm.save_tokenizer(conn, tmp_path / "saved", "t")[0]))
    same(conn, trained, ["low[x]lower <é> é", "[x", "lowest\n"])
    with pytest.raises(KitError, match="there is no tokenizer nothing"):
        pg_llm.save_tokenizer(conn, tmp_path / "none", "nothing")
    assert not (tmp_path / "none").exists()


TINY = {"added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
TINY["model"] = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
REFUSED = [
    ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "model of type WordPiece"),
    ({"model": {"type": "Unigram", "vocab": [["a", 0]]}}, "model of type Unigram"),
    ({"model": None}, "no model"),
    ({"model": {**TINY["model"], "byte_fallback": True}}, "byte_fallback true"),
    ({"model": {**TINY["model"], "end_of_word_suffix": "</w>"}}, 'end_of_word_suffix "</w>"'),
    ({"model": {**TINY["model"], "dropout": 0.1}}, "dropout 0.1"),
    ({"model": {**TINY["model"], "merges": [["a"]]}}, "line 2: expected two tokens"),
    ({"model": {**TINY["model"], "merges": [["a", "b", "c"]]}}, "line 2: expected two tokens"),
    ({"model": {**TINY["model"], "vocab": {"a": 0, "中": 1}}}, 'token "中", and its pre_tokenizer'),
    ({"model": {**TINY["model"], "vocab": {"a": 0, "b": 1.5, "ab": 2}}}, '"b" has id 1.5'),
    ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}, "the pre_tokenizer Metaspace"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "ByteLevel with add_prefix_space"),
    ({"pre_tokenizer": None}, "the pre_tokenizer null"),
    (
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "x+"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        'the pre_tokenizer Split "x\\+"',
    ),
    ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}}, "NFC, Strip"),
    ({"added_tokens": [{"id": 3, "content": "<m>", "lstrip": True}]}, '"<m>" has lstrip'),
    ({"added_tokens": [{"id": 2, "content": "<m>"}]}, '"<m>" has id 2, and so has token "ab"'),
    ({"added_tokens": [{"id": 7, "content": "ab"}]}, '"ab" has two ids, 2 in the vocabulary and 7'),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused_says_its_name(conn, tmp_path, change, message):
    """Nothing is half loaded."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(TINY))
    assert pg_llm.load_tokenizer(conn, tmp_path, model="t") == 3
    (tmp_path / "tokenizer.json").write_text(json.dumps(TINY | change))
    with pytest.raises(psycopg.Error, match=message):
        pg_llm.load_tokenizer(conn, tmp_path, model="t", truncate=True)
    assert encode(conn, "abb") == [2, 1]


@pytest.mark.slow
def test_tokens_that_tokenizer_json_lacks(conn, gpt2, tmp_path):
    """transformers adds them: of added_tokens.json, and of tokenizer_config.json."""
    transformers = pytest.importorskip("transformers")
    oracle = made(gpt2)
    oracle.add_tokens(["<old>"])
    oracle.save(str(tmp_path / "tokenizer.json"))
    stated = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "[PAD]",
        "added_tokens_decoder": {"50258": {"content": "[PAD]", "special": True, **stated}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<old>": 50257, "[PAD]": 50258}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    assert pg_llm.load_tokenizer(conn, tmp_path, model="t") == 50259
    same(conn, theirs, ["<old>[PAD] a", "[PAD", *texts(8, 50, (*ALPHABET, "<old>", "[PAD]"))])
    special = "SELECT token FROM llm_bpe_vocab WHERE model = 't' AND special"
    assert ("[PAD]",) in conn.execute(special).fetchall()


def test_other_files(conn, tmp_path):
    with pytest.raises(KitError, match="has no tokenizer.json and no vocab.json or encoder.json"):
        pg_llm.load_tokenizer(conn, tmp_path, model="t")
    with pytest.raises(KitError, match="there is no file .*tokenizer.json"):
        pg_llm.load_tokenizer(conn, tmp_path / "tokenizer.json", model="t")
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="json"):
        pg_llm.load_tokenizer(conn, tmp_path, model="t")
    (tmp_path / "tokenizer.json").write_text("é", "latin-1")
    with pytest.raises(KitError, match="are UTF-8"):
        pg_llm.load_tokenizer(conn, tmp_path, model="t")


def test_on_the_server(conn, home, tmp_path):
    """Read from a folder of the server, and written beside weights, checkpoints and where it is asked for."""
    folder = home / "whole-tokenizer"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    (folder / "tokenizer.json").write_text(json.dumps(TINY | {"added_tokens": [{"id": 3, "content": "<p>"}]}))
    (folder / "tokenizer.json").chmod(0o644)
    query = "SELECT pg_llm_load_tokenizer(%s, 't', true)"
    for path in (folder, folder / "tokenizer.json"):
        assert conn.execute(query, [str(path)]).fetchone() == (4,)
        assert encode(conn, "ab<p>b", special=False) == [2, 3, 1]
    with pytest.raises(psycopg.errors.UndefinedFile, match="no tokenizer.json and no vocab.json"):
        conn.execute(query, [str(folder / "none")])
    (folder / "tokenizer.json").unlink()
    names = {"tokenizer.json", "vocab.json", "merges.txt"}
    conn.execute("SELECT llm_create_model('t', 1, 1, 4, 8, 4), llm_init_model('t', 1)")
    for export, others in [
        ("pg_llm_export_tokenizer", set()),
        ("pg_llm_export_safetensors", {"model.safetensors", "config.json"}),
        ("pg_llm_export_npz", {"model.npz", "config.json"}),
    ]:
        conn.execute(f"SELECT {export}(%s, 't')", [str(folder)])
        assert {path.name for path in folder.iterdir()} == names | others
        oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert oracle.encode("ab<p>b").ids == [2, 3, 1]
        for path in folder.iterdir():
            path.unlink()
    for call in ("pg_llm_export_tokenizer(%s, 'nothing')", "pg_llm_export_tokenizer(%s || '/none', 't')"):
        with pytest.raises(psycopg.Error, match="there is no tokenizer|is no folder"):
            conn.execute(f"SELECT {call}", [str(folder)])


def test_datasets_take_special_tokens(conn, tmp_path):
    """From a query and from files, where no piece ends inside an added token."""
    added = [{"id": 3, "content": "<a 1>", "special": True}, {"id": 4, "content": " "}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(TINY | {"added_tokens": added}))
    pg_llm.load_tokenizer(conn, tmp_path, model="t")
    query = "SELECT * FROM llm_dataset_load('t', $$SELECT 'ab b<a 1>'$$, 't', 3, special => true)"
    assert conn.execute(query).fetchone() == (1, 4, 1, 0)
    assert conn.execute("SELECT tokens, target FROM llm_dataset").fetchall() == [([2, 4, 1], [4, 1, 3])]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='"<" .*no token'):
        conn.execute(query.replace("true", "false"))
    conn.execute("DELETE FROM llm_dataset")
    long = "ab" * (dataset.PIECE // 2 - 1) + "<a 1>" * 40
    (tmp_path / "long.txt").write_text(long)
    done = dataset.prepare_dataset(
        conn, [tmp_path / "long.txt"], "t", "t", block_size=1000, special=True, progress=False
    )
    assert done.tokens == len(encode(conn, long)) == dataset.PIECE // 2 + 39
    conn.execute("DELETE FROM llm_dataset")
