"""Generation: greedy as in transformers, sampling with its warpers' semantics, seeds, ends, beams."""

import itertools
import math

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import LETTERS, ids, logits, make
from helpers.torch_gpt2 import random_gpt2

import pg_llm


def generate(conn, prompt, *arguments, **named):
    """llm_generate with positional and named arguments."""
    names = "".join(f", {name} => %s" for name in named)
    query = f"SELECT llm_generate(%s{', %s' * len(arguments)}{names})"
    return conn.execute(query, [prompt, *arguments, *named.values()]).fetchone()[0]


@pytest.fixture(scope="module")
def m(server, database):
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=3, n_head=4, d_model=32, n_positions=200, gain=8)
        yield conn


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_what_transformers_generates(conn, tmp_path, seed):
    torch = pytest.importorskip("torch")
    model = random_gpt2([(2, 3, 48, 70, 26, {}), (1, 1, 8, 20, 26, {}), (4, 2, 64, 40, 26, {})][seed], seed)
    model.save_pretrained(tmp_path)
    name = f"greedy_{seed}"
    pg_llm.load_model(conn, tmp_path, name)
    conn.execute("INSERT INTO llm_bpe_vocab SELECT %s, i, chr(97 + i), chr(97 + i)::bytea "
        "FROM generate_series(0, 25) AS i", [name])  # fmt: skip
    rng = np.random.default_rng(seed)
    for T, eos in ((1, None), (13, None), (5, 3), (13, 25)):
        prompt = torch.tensor(rng.integers(0, 26, (1, T)))
        most = model.config.n_positions - T
        how = {"do_sample": False, "eos_token_id": eos, "pad_token_id": 0, "attention_mask": prompt * 0 + 1}
        theirs = model.generate(prompt, max_new_tokens=most, **how)[0].tolist()
        if theirs[-1] == eos and len(theirs) > T:
            theirs.pop()
        ours = generate(conn, "".join(LETTERS[t] for t in prompt[0]), most, 0, model=name, eos=eos)
        assert ours == "".join(LETTERS[t] for t in theirs)


def test_each_greedy_token_is_the_full_forwards(m):
    """Beyond blocks of 128 keys too: cached generation equals a forward pass over the whole sequence."""
    text = generate(m, "q", 200, 0, model="m", eos=None)
    assert len(text) == 201  # the token after the last position needs no position of its own
    best = logits(m, "m", ids(text[:-1])).argmax(-1)
    assert "".join(LETTERS[t] for t in best) == text[1:]


SAMPLINGS = [(1.0, None, None), (0.3, None, None), (2.5, None, None), (1, 1, None), (1, 5, None),
    (1, None, 0.5), (0.7, 12, 0.9), (1, 26, 1.0), (1.3, 4, 0.3), (1, None, 1e-9), (1, 99, 0.99)]  # fmt: skip


@pytest.mark.parametrize("how", SAMPLINGS, ids=str)
def test_samples_follow_transformers_warpers(m, how):
    """20,000 draws: none outside the warpers' candidates, frequencies within five standard deviations."""
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as warp

    temperature, topk, topp = how
    scores = torch.tensor(logits(m, "m", ids("hello"))[-1:].copy(), dtype=torch.float64)
    scores = warp.TemperatureLogitsWarper(float(temperature))(None, scores)
    if topk:
        scores = warp.TopKLogitsWarper(min(topk, 26))(None, scores)
    if topp and topp < 1:
        scores = warp.TopPLogitsWarper(topp)(None, scores)
    expected = torch.softmax(scores, -1)[0].numpy()
    n = 20000
    rows = m.execute(
        "WITH l AS MATERIALIZED (SELECT slice(llm_logits(%s::int[], 'm'), 4, 5) AS t) "
        "SELECT pg_llm_sample(reshape(t, ARRAY[26]), %s, %s, %s, s), count(*) "
        "FROM l, generate_series(1, %s) AS s GROUP BY 1",
        (ids("hello"), temperature, topk, topp, n),
    ).fetchall()
    counts = np.zeros(26)
    for token, count in rows:
        counts[token] = count
    assert counts.sum() == n and not counts[expected == 0].any()
    deviation = np.sqrt(n * expected * (1 - expected))
    assert (np.abs(counts - n * expected) <= 5 * deviation + 1).all()
    kept = expected > 0
    chi2 = ((counts - n * expected)[kept] ** 2 / (n * expected[kept])).sum()
    assert chi2 <= kept.sum() + 5 * math.sqrt(2 * kept.sum())
    for seed in range(1, 30):  # and the first generated token is such a draw
        (token,) = m.execute(
            "SELECT pg_llm_sample(reshape(slice(llm_logits(%s::int[], 'm'), 4, 5), '{26}'), %s, %s, %s, %s)",
            (ids("hello"), temperature, topk, topp, seed),
        ).fetchone()
        text = generate(m, "hello", 1, temperature, topk, topp, model="m", seed=seed)
        assert text == "hello" + LETTERS[token]


def test_a_seed_gives_the_same_text_on_every_machine(m):
    texts = set()
    levels = [r[0] for r in m.execute("SELECT unnest(enumvals) FROM pg_settings WHERE name = 'pg_llm.isa'")]
    for isa, threads in itertools.product(levels, (1, 2, 5)):
        try:
            m.execute(f"SET pg_llm.isa = {isa}; SET pg_llm.threads = {threads}")
        except psycopg.errors.InvalidParameterValue:
            continue  # not on this machine
        texts.add(generate(m, "seeds", 150, 1.1, model="m", seed=7))
    m.execute("RESET pg_llm.isa; RESET pg_llm.threads")
    assert len(levels) >= 4 and len(texts) == 1
    seeds = (0, -1, 1, 2**63 - 1, -(2**63), 2**32)
    assert len({generate(m, "seeds", 60, 1, model="m", seed=s) for s in seeds}) == len(seeds)
    assert len({generate(m, "seeds", 60, 1, model="m", seed=None) for _ in range(4)}) == 4
    m.execute("SELECT setseed(0.5)")
    again = generate(m, "seeds", 60, 1, model="m")
    m.execute("SELECT setseed(0.5)")
    assert generate(m, "seeds", 60, 1, model="m") == again


def test_the_end_token(m, conn):
    text = generate(m, "ab", 50, 0, model="m", eos=None)
    assert text == generate(m, "ab", 50, 0, model="m", eos=-1)
    assert text == generate(m, "ab", 50, 0, model="m")  # the default, 50256, is not in this vocabulary
    end = text[6]
    cut = text[: text.index(end, 2)]
    assert generate(m, "ab", 50, 0, model="m", eos=ids(end)[0]) == cut
    for eos in (26, -2, 2**31 - 1):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="run from 0 to 25"):
            generate(m, "ab", 50, 0, model="m", eos=eos)
    m.execute(
        "UPDATE llm_model_config SET options = %s WHERE model = 'm'", [f'{{"eos_token_id": {ids(end)[0]}}}']
    )
    try:
        assert generate(m, "ab", 50, 0, model="m") == cut
        assert generate(m, "ab", 50, 0, model="m", eos=None) == text
        assert generate(m, "", 3, 0, model="m").startswith(
            generate(m, end, 1, 0, model="m", eos=None)[1:]
        )  # an empty prompt starts from the end token
    finally:
        m.execute("UPDATE llm_model_config SET options = '{}' WHERE model = 'm'")
    for option in ('"x"', "1.5", "[1]", "99999999999999999999", "-2", '""', "true"):
        with m.transaction(force_rollback=True):
            m.execute("UPDATE llm_model_config SET options = jsonb_build_object('eos_token_id', %s::jsonb) "
                "WHERE model = 'm'", [option])  # fmt: skip
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="eos_token_id of model"):
                generate(m, "ab", 3, model="m")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="the prompt is empty") as error:
        generate(m, "", 3, 0, model="m")
    assert "no end token to start from" in error.value.diag.message_hint


def test_lengths(m):
    assert generate(m, "abc", 0, model="m") == "abc"
    assert len(generate(m, "abc", model="m", eos=None)) == 3 + 64
    assert len(generate(m, "abc", None, model="m", eos=None)) == 3 + 64
    assert len(generate(m, "a" * 180, None, model="m", eos=None)) == 201  # as many tokens as fit
    assert len(generate(m, "a" * 200, 1, model="m", eos=None)) == 201
    assert generate(m, "a" * 200, 0, model="m") == "a" * 200
    for prompt, most, words in (
        ("a" * 201, 1, "201 tokens are more than the 200 positions"),
        ("a" * 201, None, "201 tokens are more than the 200 positions"),
        ("a" * 100, 102, "a prompt of 100 tokens and 102 new ones do not fit the 200 positions"),
        ("abc", 2**31 - 1, "do not fit the 200 positions"),
    ):
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=words) as error:
            generate(m, prompt, most, model="m")
        assert error.value.diag.message_hint
    for most in (-1, -(2**31)):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="max_tokens is -"):
            generate(m, "abc", most, model="m")


def test_arguments_out_of_range(m):
    for name, value in (
        ("temperature", -1), ("temperature", "nan"), ("temperature", "inf"), ("topk", -1),
        ("topp", 0), ("topp", 1.5), ("topp", -0.1), ("topp", "nan"),
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{name} is ") as error:
            generate(m, "abc", 3, model="m", **{name: value})
        assert error.value.diag.message_hint
    for name in ("prompt", "model"):
        with pytest.raises(psycopg.errors.NullValueNotAllowed, match=f"{name} must not be NULL"):
            m.execute(f"SELECT llm_generate(prompt => {'NULL' if name == 'prompt' else chr(39) * 2}, "
                f"model => {'NULL' if name == 'model' else chr(39) + 'm' + chr(39)})")  # fmt: skip
    assert generate(m, "abc", 9, 1e-300, model="m", eos=None) == generate(m, "abc", 9, 0, model="m", eos=None)
    assert len(generate(m, "abc", 9, 1e6, model="m", eos=None)) == 12
    assert len(generate(m, "abc", 9, None, None, None, model="m", eos=None)) == 12


def test_weights_that_are_no_numbers(m):
    for value, words in (("nan", "NaN"), ("inf", "NaN|infinite")):
        with m.transaction(force_rollback=True):
            m.execute(
                f"UPDATE llm_param SET data = data * '{value}' WHERE model = 'm' AND name = 'ln_f.weight'"
            )
            for call in (
                "llm_generate('abc', 3, 0, model => 'm')",
                "llm_generate_stream('abc', 3, 1, model => 'm')",
                "llm_next_tokens('abc', 3, 'm')",
                "llm_beam_search('abc', 2, 3, 'm')",
            ):
                with pytest.raises(psycopg.errors.InvalidParameterValue, match=words), m.transaction():
                    m.execute(f"SELECT * FROM {call}")


# ---- beams ----


def beams(conn, prompt, width, most, model):
    rows = conn.execute(
        "SELECT * FROM llm_beam_search(%s, %s, %s, %s)", (prompt, width, most, model)
    ).fetchall()
    assert [r[0] for r in rows] == list(range(1, len(rows) + 1))
    return [r[1:3] for r in rows]


def log_softmax(x):
    x = x.astype(float) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def score(conn, model, prompt, tokens):
    table = log_softmax(logits(conn, model, prompt + tokens[:-1]))[len(prompt) - 1 :]
    return sum(table[i, t] for i, t in enumerate(tokens))


def test_one_beam_is_greedy(m):
    for prompt in ("a", "hello", "zzzz"):
        ((total, text),) = beams(m, prompt, 1, 20, "m")
        assert text == generate(m, prompt, 20, 0, model="m")
        assert total == pytest.approx(score(m, "m", ids(prompt), ids(text[len(prompt) :])), abs=1e-4)


def test_wide_beams_find_the_best_of_all(conn):
    """Five tokens, one of them the end, four steps: a wide enough beam must find brute force's list."""
    make(conn, "five", n_layer=2, d_model=8, n_positions=12, vocab=5, options='{"eos_token_id": 4}')
    prompt = ids("ab")
    texts = []
    for n in range(1, 5):
        for tokens in itertools.product(range(5), repeat=n):
            if 4 not in tokens[:-1] and (tokens[-1] == 4 or n == 4):
                texts.append((score(conn, "five", prompt, list(tokens)), tokens))
    texts.sort(reverse=True)
    ours = beams(conn, "ab", 256, 4, "five")
    assert len(ours) == 256
    for (total, text), (best, tokens) in zip(ours, texts[:256], strict=True):
        assert total == pytest.approx(best, abs=1e-4)
        assert len(text) - 2 == len([t for t in tokens if t != 4])
    assert ours[0][1] == "ab" + "".join(LETTERS[t] for t in texts[0][1] if t != 4)
    for width in (1, 2, 3, 7):
        narrow = beams(conn, "ab", width, 4, "five")
        assert len(narrow) == width and [s for s, _ in narrow] == sorted((s for s, _ in narrow), reverse=True)
        assert narrow[0][0] <= texts[0][0] + 1e-4
        assert all(any(abs(s - best) < 1e-4 for best, _ in texts) for s, _ in narrow)


def test_beams_at_the_edges(m, conn):
    assert beams(m, "abc", 3, 0, "m") == [(0.0, "abc")]
    assert len(beams(m, "abc", 40, 1, "m")) == 26
    for width in (0, -1, 257, 2**31 - 1):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="from 1 to 256"):
            beams(m, "abc", width, 3, "m")
    # a graph that attends ahead cannot use a cache: each step computes the whole sequence
    make(conn, "both", n_layer=1, vocab=4)
    conn.execute(
        """UPDATE llm_graph SET attrs = '{"n_head": 2, "causal": false}'
        WHERE model = 'both' AND op = 'attention'"""
    )
    text = generate(conn, "ab", 6, 0, model="both")
    assert beams(conn, "ab", 1, 6, "both")[0][1] == text
    for n in range(2, 8):
        assert ids(text)[n] == logits(conn, "both", ids(text[:n]))[-1].argmax()
    wide = beams(conn, "ab", 64, 3, "both")
    assert len(wide) == 64
    for total, found in wide[:5]:
        each = [log_softmax(logits(conn, "both", ids(found[:n]))[-1])[ids(found)[n]] for n in range(2, 5)]
        assert total == pytest.approx(sum(each), abs=1e-4)


def test_temperature_and_end_token_of_beams(conn):
    """Every sequence of three tokens, with the score that the scaled logits give it."""
    make(conn, "warm", n_layer=1, vocab=5)
    query = "SELECT score, text, token_ids FROM llm_beam_search('ab', 200, 3, 'warm', %s, %s)"
    for temperature, eos, count in ((0.5, None, 125), (3.0, 2, 1 + 4 + 16 + 64)):
        rows = conn.execute(query, (temperature, eos)).fetchall()
        assert len({tuple(r[2]) for r in rows}) == len(rows) == count
        assert [r[0] for r in rows] == sorted((r[0] for r in rows), reverse=True)
        for total, text, tokens in rows:
            table = log_softmax(logits(conn, "warm", tokens[:-1]) / temperature)[1:]
            assert total == pytest.approx(sum(table[i, t] for i, t in enumerate(tokens[2:])), abs=1e-4)
            assert text == "".join(LETTERS[t] for t in tokens if t != eos)
    for temperature in (0, 1e-6, 1e8, "nan"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="temperature is "):
            conn.execute(query, (temperature, None))
