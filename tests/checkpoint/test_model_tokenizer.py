"""load_model loads the tokenizer beside the weights: what transformers and tokenizers save generates text."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import psycopg
import pytest
from helpers.checkpoint_files import CONFIG, gpt2, nothing_left, write_safetensors
from helpers.checkpoint_files import model as model
from helpers.hub_server import Hub, serving
from helpers.paths import REPO

import pg_llm
from pg_llm.errors import KitError

tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

STORIES = [
    "Once upon a time there was a little girl named Lily. She liked to play outside in the park.",
    'One day, Tom found a big red ball. He said, "Look, mom! It\'s mine." They were happy.',
]
SHAPE = {"vocab_size": 300, "max_position_embeddings": 64, "hidden_size": 24, "initializer_range": 0.2}
NEO = {"num_layers": 2, "num_heads": 3, "attention_types": [[["global", "local"], 1]], "window_size": 5}
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 44}
KINDS = {
    "GPTNeo": transformers.GPTNeoConfig(**SHAPE, **NEO, bos_token_id=0, eos_token_id=0),
    "Llama": transformers.LlamaConfig(**SHAPE, **LLAMA, bos_token_id=0, eos_token_id=0),
}


def trained(seed_text: list[str] = STORIES):
    """A byte-level tokenizer learned from these texts, with GPT-2's end of text as token 0."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(seed_text, trainer)
    return made


def saved(folder: Path, kind: str = "GPTNeo", seed: int = 0, files: bool = False) -> Path:
    """The folder of a random model and its tokenizer, as tokenizer.json or as vocab.json and merges.txt."""
    torch.manual_seed(seed)
    getattr(transformers, f"{kind}ForCausalLM")(KINDS[kind]).save_pretrained(folder)
    if files:
        trained().model.save(str(folder))
    else:
        trained().save(str(folder / "tokenizer.json"))
    return folder


def greedy(folder: Path, kind: str, prompt: str, count: int) -> str:
    """The prompt and the text that transformers and tokenizers generate."""
    network = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder).eval().double()
    oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = oracle.encode(prompt).ids
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(network(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
            if tokens[-1] == 0:
                break
    return oracle.decode([token for token in tokens if token != 0])


def generated(conn, model, prompt="Once upon", count=20) -> str:
    query = "SELECT llm_generate(%s, %s, temperature => 0, model => %s)"
    return conn.execute(query, [prompt, count, model]).fetchone()[0]


def tokens_of(conn, model) -> int:
    return conn.execute("SELECT count(*) FROM llm_bpe_vocab WHERE model = %s", [model]).fetchone()[0]


@pytest.fixture(autouse=True)
def no_tokenizer_left(conn, model):
    yield
    for table in ("llm_bpe_vocab", "llm_bpe_merges", "llm_bpe_config"):
        conn.execute(f"DELETE FROM {table} WHERE model IN (%s, 'other')", [model])


@pytest.mark.parametrize("kind", KINDS)
def test_text_at_once(conn, model, tmp_path, kind):
    """The model of a folder generates what transformers does; loading the tokenizer by itself still works."""
    folder = saved(tmp_path / "m", kind)
    done = pg_llm.load_model(conn, folder, model, progress=False)
    assert done.tokenizer == model and tokens_of(conn, model) == 300
    expected = greedy(folder, kind, "Once upon", 20)
    assert len(expected) > 20 and generated(conn, model) == expected
    assert generated(conn, model, "One day, Tom") == greedy(folder, kind, "One day, Tom", 20)
    assert pg_llm.load_tokenizer(conn, folder, model=model) == 300
    assert pg_llm.load_tokenizer(conn, folder / "tokenizer.json", model=model) == 300
    assert pg_llm.load_model(conn, folder, model, progress=False) == done
    assert generated(conn, model) == expected


def test_vocabulary_and_merges(conn, model, tmp_path):
    """Two files in place of tokenizer.json; a weights file by its own name; a pair of files by hand."""
    folder = saved(tmp_path / "m", files=True)
    assert pg_llm.load_model(conn, folder / "model.safetensors", model, progress=False).tokenizer == model
    text = STORIES[0]
    tokens = conn.execute("SELECT llm_encode(%s, %s)", [text, model]).fetchone()[0]
    assert tokens == trained().encode(text).ids
    assert pg_llm.load_tokenizer(conn, folder / "vocab.json", folder / "merges.txt", model) == 300


def test_without(conn, model, tmp_path):
    """A folder without a tokenizer, and tokenizer=False, load the weights alone."""
    folder = saved(tmp_path / "m")
    done = pg_llm.load_model(conn, folder, model, progress=False, tokenizer=False)
    assert done.tokenizer is None and tokens_of(conn, model) == 0
    (folder / "tokenizer.json").unlink()
    assert pg_llm.load_model(conn, folder, model, progress=False) == done
    assert pg_llm.load_model(conn, folder, model, progress=False, tokenizer=True) == done


def test_a_tokenizer_of_the_database(conn, model, tmp_path):
    """By its name; a name that is not there is an error before anything is written."""
    folder = saved(tmp_path / "m")
    pg_llm.load_tokenizer(conn, folder, model="other")
    with pytest.raises(KitError, match='no tokenizer "nothing"'):
        pg_llm.load_model(conn, folder, model, progress=False, tokenizer="nothing")
    assert nothing_left(conn, model)
    done = pg_llm.load_model(conn, folder, model, progress=False, tokenizer="other")
    assert done.tokenizer == "other" and tokens_of(conn, model) == 0
    assert generated(conn, model) == greedy(folder, "GPTNeo", "Once upon", 20)
    # the same tokenizer as the one in use is not loaded a second time
    assert pg_llm.load_model(conn, folder, model, progress=False).tokenizer == "other"
    assert tokens_of(conn, model) == 0
    pg_llm.load_tokenizer(conn, folder, model=model)
    with pytest.raises(KitError, match="a tokenizer of its own name"):
        pg_llm.load_model(conn, folder, model, progress=False, tokenizer="other")


def test_gpt2s_own_is_not_copied(conn, model, tmp_path):
    """A checkpoint with GPT-2's vocabulary and files uses the tokenizer that each database has."""
    small = dict(CONFIG, vocab_size=50257)
    write_safetensors(tmp_path / "model.safetensors", gpt2((50257, 7, 6, 2, 10)))
    (tmp_path / "config.json").write_text(json.dumps(small))
    pg_llm.save_tokenizer(conn, tmp_path, "gpt2")
    assert pg_llm.load_model(conn, tmp_path, model, progress=False).tokenizer == "gpt2"
    assert tokens_of(conn, model) == 0


def test_another_is_kept(conn, model, tmp_path):
    """A tokenizer that was loaded under the model's name stays, with a warning."""
    folder = saved(tmp_path / "m")
    other = trained(STORIES[:1])
    other.save(str(tmp_path / "tokenizer.json"))
    pg_llm.load_tokenizer(conn, tmp_path, model=model)
    with pytest.warns(UserWarning, match="keeps the tokenizer of its name, which differs"):
        done = pg_llm.load_model(conn, folder, model, progress=False)
    assert done.tokenizer == model and done.tensors > 0
    tokens = conn.execute("SELECT llm_encode(%s, %s)", [STORIES[1], model]).fetchone()[0]
    assert tokens == other.encode(STORIES[1]).ids != trained().encode(STORIES[1]).ids
    with pytest.raises(psycopg.errors.DuplicateObject, match="already has"):
        pg_llm.load_tokenizer(conn, folder, model=model)
    assert conn.execute("SELECT llm_encode(%s, %s)", [STORIES[1], model]).fetchone()[0] == tokens


def unigram() -> dict:
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([("a", -1.0), ("b", -2.0)], 0))
    return json.loads(made.to_str())


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", json.dumps(unigram()), "a model of type Unigram"),
        ("tokenizer.model", "\n\x07", "is a tokenizer of SentencePiece"),
        ("vocab.txt", "[PAD]\nthe", "is a tokenizer of WordPiece"),
    ],
)
def test_another_kind(conn, model, tmp_path, file, content, words):
    """The model loads, and a warning says why its tokenizer did not."""
    folder = saved(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / file).write_text(content)
    with pytest.warns(UserWarning, match=f'tokenizer .*of model "{model[:10]}.* was not loaded: .*{words}'):
        done = pg_llm.load_model(conn, folder, model, progress=False)
    assert done.tensors > 0 and done.tokenizer is None and tokens_of(conn, model) == 0
    with warnings.catch_warnings(action="error"):
        pg_llm.load_model(conn, folder, model, progress=False, tokenizer=False)


@pytest.mark.parametrize("content", [b'{"model": ', '"é"'.encode("latin-1")])
def test_nothing_of_a_damaged_folder(conn, model, tmp_path, content):
    """Neither weights nor tokens, and what was there before stays."""
    folder = saved(tmp_path / "m")
    good = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(KitError, match="no JSON.*tokenizer=False|are UTF-8"):
        pg_llm.load_model(conn, folder, model, progress=False)
    assert nothing_left(conn, model) and tokens_of(conn, model) == 0
    (folder / "tokenizer.json").write_bytes(good)
    pg_llm.load_model(conn, folder, model, progress=False)
    before = generated(conn, model)
    (folder / "tokenizer.json").write_bytes(content)
    saved(tmp_path / "n", seed=1)
    (folder / "model.safetensors").write_bytes((tmp_path / "n" / "model.safetensors").read_bytes())
    with pytest.raises(KitError):
        pg_llm.load_model(conn, folder, model, progress=False)
    assert generated(conn, model) == before


def test_in_a_transaction_of_the_caller(conn, model, tmp_path):
    folder = saved(tmp_path / "m")
    with conn.transaction(force_rollback=True):
        pg_llm.load_model(conn, folder, model, progress=False)
        assert tokens_of(conn, model) == 300
    assert nothing_left(conn, model) and tokens_of(conn, model) == 0


def test_command(conn, database, model, tmp_path, monkeypatch):
    """pg-llm download --model says which tokenizer the model has."""
    folder = saved(tmp_path / "m")
    commit = "a" * 40
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serving(Hub("someone/tiny", {commit: files}, {"main": commit})) as hub:
        for name, value in [("HF_HOME", str(tmp_path / "hf")), ("HF_ENDPOINT", hub.url)]:
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("PYTHONPATH", str(REPO))
        command = ["download", "someone/tiny", "--model", model, "--database", database]
        done = subprocess.run(
            [sys.executable, "-m", "pg_llm", *command], capture_output=True, text=True, check=True
        )
    assert f"tokenizer {model}, in database {database}" in done.stderr
    assert generated(conn, model) == greedy(folder, "GPTNeo", "Once upon", 20)
