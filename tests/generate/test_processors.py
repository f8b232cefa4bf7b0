"""Penalties, min_p, stop texts and log probabilities: those of transformers' processors of these names."""

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import LETTERS, ids, logits, make
from helpers.torch_gpt2 import random_gpt2

import pg_llm

PIECES = [*LETTERS, "ab", "bcd", "de", "\n", "fg ", "é", " 🙂"]
CALL = (
    "%(prompt)s, %(max_tokens)s, %(temperature)s, NULL, NULL, 'm', NULL, %(seed)s, %(stop)s, "
    "%(repetition_penalty)s, %(min_p)s, %(no_repeat_ngram)s)"
)
DEFAULTS = {"max_tokens": 30, "temperature": 0, "seed": 1, "stop": None, "repetition_penalty": None,
    "min_p": None, "no_repeat_ngram": None}  # fmt: skip


@pytest.fixture(scope="module")
def m(server, database):
    """A model whose tokens are letters and some longer texts."""
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=2, n_head=4, d_model=32, n_positions=120, vocab=len(PIECES), gain=8)
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) VALUES ('m', %s, %s, %s)",
                [(i, f"piece{i}", piece.encode()) for i, piece in enumerate(PIECES) if i >= 26],
            )
        yield conn


def generate(conn, prompt, **named):
    return conn.execute("SELECT llm_generate(" + CALL, DEFAULTS | {"prompt": prompt} | named).fetchone()[0]


def stream(conn, prompt, **named):
    query = "SELECT * FROM llm_generate_stream(" + CALL
    return conn.execute(query, DEFAULTS | {"prompt": prompt} | named).fetchall()


# ---- penalties and min_p ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("penalty", "ngram"), [(1.3, 0), (0.7, 0), (1.0, 1), (1.0, 2), (1.0, 3), (2.0, 2), (1e6, 5), (1.1, 99)]
)
def test_penalties_are_those_of_transformers(conn, tmp_path, penalty, ngram):
    torch = pytest.importorskip("torch")
    model = random_gpt2((2, 3, 48, 70, 26, {}), 1)
    model.save_pretrained(tmp_path)
    name = f"penalties {penalty} {ngram}"
    pg_llm.load_model(conn, tmp_path, name)
    conn.execute("INSERT INTO llm_bpe_vocab SELECT %s, i, chr(97 + i), chr(97 + i)::bytea "
        "FROM generate_series(0, 25) AS i", [name])  # fmt: skip
    for prompt in ("a", "abcabcab", "zzzz"):
        tokens = torch.tensor([ids(prompt)])
        most = 20 if ngram == 1 else 60
        theirs = model.generate(
            tokens, max_new_tokens=most, do_sample=False, eos_token_id=None, pad_token_id=0,
            attention_mask=tokens * 0 + 1, repetition_penalty=penalty, no_repeat_ngram_size=ngram,
        )[0].tolist()  # fmt: skip
        query = (
            "SELECT llm_generate(%s, %s, 0, model => %s, eos => NULL, repetition_penalty => %s, "
            "no_repeat_ngram => %s)"
        )
        (ours,) = conn.execute(query, (prompt, most, name, penalty, ngram)).fetchone()
        assert ours == "".join(LETTERS[t] for t in theirs)


@pytest.mark.parametrize(
    "how",
    [
        {"min_p": 0.2}, {"min_p": 0.05, "temperature": 2.0}, {"min_p": 1.0}, {"min_p": 0.3, "topp": 0.5},
        {"min_p": 0.1, "topk": 3}, {"repetition_penalty": 1.8}, {"no_repeat_ngram": 1},
        {"repetition_penalty": 0.5, "no_repeat_ngram": 2, "temperature": 0.8, "topk": 20, "topp": 0.95,
            "min_p": 0.02},
    ],
    ids=str,
)  # fmt: skip
def test_samples_follow_transformers_processors(m, how):
    """10,000 draws: none outside the processors' candidates, frequencies within five standard deviations."""
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as process

    how = {"temperature": 1.0, "topk": 0, "topp": 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
        "no_repeat_ngram": 0} | how  # fmt: skip
    prompt = "hehellohe"
    tokens = torch.tensor([ids(prompt)])
    scores = torch.tensor(logits(m, "m", ids(prompt))[-1:].copy(), dtype=torch.float64)
    chain = [process.RepetitionPenaltyLogitsProcessor(how["repetition_penalty"])]
    if how["no_repeat_ngram"]:
        chain.append(process.NoRepeatNGramLogitsProcessor(how["no_repeat_ngram"]))
    chain.append(process.TemperatureLogitsWarper(how["temperature"]))
    if how["topk"]:
        chain.append(process.TopKLogitsWarper(how["topk"]))
    chain += [process.TopPLogitsWarper(how["topp"]), process.MinPLogitsWarper(how["min_p"])]
    for step in chain:
        scores = step(tokens, scores)
    expected = torch.softmax(scores, -1)[0].numpy()
    n = 10000
    named = ", ".join(f"{name} => %({name})s" for name in how)
    rows = m.execute(
        f"SELECT token_ids[{len(prompt) + 1}], count(*) FROM llm_generate_batch(ARRAY[%(prompt)s], 1, "
        f"model => 'm', eos => NULL, seed => 1, n => {n}, {named}) GROUP BY 1",
        {"prompt": prompt, **how},
    ).fetchall()
    counts = np.zeros(len(PIECES))
    for token, count in rows:
        counts[token] = count
    assert counts.sum() == n and not counts[expected == 0].any()
    deviation = np.sqrt(n * expected * (1 - expected))
    assert (np.abs(counts - n * expected) <= 5 * deviation + 1).all()


def test_min_p_of_one_token_is_that_of_generation(m):
    row = f"reshape(slice(llm_logits(%s::int[], 'm'), 4, 5), ARRAY[{len(PIECES)}])"
    for seed in range(1, 20):
        query = f"SELECT pg_llm_sample({row}, 1.5, seed => %s, min_p => 0.3)"
        (token,) = m.execute(query, (ids("hello"), seed)).fetchone()
        assert stream(m, "hello", max_tokens=1, temperature=1.5, min_p=0.3, seed=seed)[0][1] == token


def test_defaults_change_nothing(m):
    for seed in range(3):
        plain = m.execute("SELECT llm_generate('ab', 40, 1, NULL, NULL, 'm', NULL, %s)", [seed]).fetchone()[0]
        same = {"repetition_penalty": 1, "min_p": 0, "no_repeat_ngram": 0, "stop": []}
        for given in ({}, same):
            assert generate(m, "ab", max_tokens=40, temperature=1, seed=seed, **given) == plain


def test_no_sequence_occurs_twice(m):
    for n in (1, 2, 3):
        tokens = ids("abcab") + [
            r[1] for r in stream(m, "abcab", temperature=1, no_repeat_ngram=n, max_tokens=25)
        ]
        seen = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        new = seen[5 - n + 1 :]
        assert len(set(new)) == len(new) and not {*new} & {*seen[: 5 - n + 1]}
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="repeat a sequence of 1 token") as error:
        generate(m, LETTERS, no_repeat_ngram=1)  # it has fewer other tokens than it is to generate
    assert "no_repeat_ngram" in error.value.diag.message_hint


def test_logprobs_are_those_of_the_model(m):
    """Whatever is sampled from: temperature and penalties do not change them."""
    for how in ({}, {"temperature": 1.7}, {"temperature": 1, "repetition_penalty": 2, "min_p": 0.1}):
        rows = stream(m, "hello", seed=3, **how)
        tokens = [7, 4, 11, 11, 14] + [r[1] for r in rows]
        table = logits(m, "m", tokens[:-1]).astype(float)
        table -= np.log(np.exp(table).sum(-1, keepdims=True))
        expected = [table[4 + i, r[1]] for i, r in enumerate(rows)]
        assert np.allclose([r[5] for r in rows], expected, atol=1e-5)
    ((score,),) = m.execute("SELECT score FROM llm_beam_search('hello', 1, 30, 'm', eos => NULL)").fetchall()
    assert sum(r[5] for r in stream(m, "hello")) == pytest.approx(score, abs=1e-4)


# ---- stop texts ----


def test_a_stop_text_ends_where_transformers_ends(m):
    """The same last token for texts within a token, over several, and begun in the prompt."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    from transformers.generation.stopping_criteria import StopStringCriteria

    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, merges=[]))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)
    stopped = 0
    for seed in range(12):
        rows = stream(m, "hello", temperature=1.5, seed=seed, max_tokens=60)
        tokens = ids("hello") + [r[1] for r in rows]
        text = "".join(PIECES[t] for t in tokens)
        assert text == rows[-1][3]
        for stop in (["ab"], ["cd"], ["e\n", "g "], [text[3:7]], [text[20:23], "q"], ["o" + text[5]], ["é"]):
            criterion = StopStringCriteria(tokenizer, stop)
            ends = [
                n for n in range(6, len(tokens) + 1) if criterion(torch.tensor([tokens[:n]]), None).item()
            ]
            got = stream(m, "hello", temperature=1.5, seed=seed, max_tokens=60, stop=stop)
            count = (ends[0] if ends else len(tokens)) - 5
            assert [r[1] for r in got] == tokens[5 : 5 + count]
            assert [r[4] for r in got] == [False] * (count - 1) + [True]
            whole = "".join(PIECES[t] for t in tokens[: 5 + count])
            begin = min((whole.find(s) for s in stop if ends and s in whole), default=len(whole))
            assert got[-1][3] == whole[: max(5, begin)]
            assert got[-1][3] == generate(m, "hello", temperature=1.5, seed=seed, max_tokens=60, stop=stop)
            stopped += bool(ends)
    assert stopped > 20


def test_a_stream_never_shows_what_a_stop_text_takes_back(m):
    for seed in range(6):
        whole = generate(m, "hello", temperature=1.5, seed=seed, max_tokens=60)
        for stop in (whole[20:26], whole[9:10], whole[30:33] + "\x01"):
            shown = ["hello"] + [
                r[3] for r in stream(m, "hello", temperature=1.5, seed=seed, max_tokens=60, stop=[stop])
            ]
            assert all(after.startswith(before) for before, after in zip(shown, shown[1:], strict=False))
            end = whole.find(stop, 5)
            assert shown[-1] == (whole if end < 0 else whole[:end])


def test_stop_texts_in_any_encoding_and_number(m):
    text = generate(m, "hello", temperature=1.5, seed=2, max_tokens=100)
    for stop in (["é"], [" 🙂"], ["\U0001f642"], [chr(c) for c in range(1000, 3000)] + [text[50:52]]):
        ends = [text.find(s, 5) for s in stop if s in text[5:]]
        got = generate(m, "hello", temperature=1.5, seed=2, max_tokens=100, stop=stop)
        assert got == (text[: min(ends)] if ends else text)
    assert m.execute("SELECT llm_generate('abc', 3, 0, model => 'm', stop => '{{x,y},{z,w}}')").fetchone()


# ---- arguments ----


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", 1e8, r"temperature is 1e\+08; it must be from 0 to 1000000"),
        ("temperature", 1000000.1, r"temperature is 1000000\.1; "),
        ("topp", 1.0000001, r"topp is 1\.0000001; it must be above 0 and at most 1"),
        ("topp", 1 + 2**-52, r"topp is 1\.0000000000000002; "),
        ("min_p", -1e-9, r"min_p is -1e-09; it must be from 0 to 1"),
        ("min_p", 1.0000001, r"min_p is 1\.0000001; "),
        ("min_p", "nan", "min_p is NaN"), ("repetition_penalty", 0, "repetition_penalty is 0; "),
        ("repetition_penalty", -1, "is -1; "), ("repetition_penalty", "inf", "is Infinity; "),
        ("no_repeat_ngram", -1, "no_repeat_ngram is -1; it must be 0 or more"),
        ("stop", ["a", ""], "stop contains an empty text"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_came_and_what_was_expected(m, name, value, words):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=words) as error:
        m.execute(f"SELECT llm_generate('abc', 3, model => 'm', {name} => %s)", [value])
    assert error.value.diag.message_hint


def test_a_stop_text_is_not_null(m):
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="stop must not contain NULL"):
        generate(m, "abc", stop=["a", None])
