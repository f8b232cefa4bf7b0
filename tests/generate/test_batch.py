"""llm_generate_batch: each text has the bits that llm_generate gives alone."""

import psycopg
import pytest
from helpers.tiny_model import LETTERS, make

import pg_llm


@pytest.fixture(scope="module")
def m(server, database):
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=2, n_head=4, d_model=32, n_positions=300, gain=8)
        yield conn


def batch(conn, prompts, more=""):
    return conn.execute(
        f"SELECT * FROM llm_generate_batch(%s::text[], model => 'm'{more})", [prompts]
    ).fetchall()


def one_by_one(conn, prompts, n, more=""):
    """What each row should be: (prompt, sample, text, token_ids, logprob, sample_seed)."""
    query = (
        f"SELECT array_agg(token_id ORDER BY step), sum(logprob ORDER BY step), "
        f"(SELECT llm_generate(%(p)s, model => 'm', seed => %(s)s{more})) "
        f"FROM llm_generate_stream(%(p)s, model => 'm', seed => %(s)s{more})"
    )
    rows = []
    for i, prompt in enumerate(prompts, 1):
        for sample in range(n):
            ids, logprob, text = conn.execute(query, {"p": prompt, "s": 40 + sample}).fetchone()
            rows.append(
                (i, sample + 1, text, [*map(LETTERS.index, prompt), *(ids or [])], logprob or 0, 40 + sample)
            )
    return rows


PROMPTS = ["hello", "x", "abc" * 60, "hello", "z" * 130, "qr"]


@pytest.mark.parametrize(
    ("n", "more"),
    [
        (1, ""), (3, ", temperature => 0"), (7, ", max_tokens => 90, eos => 3"), (2, ", max_tokens => 0"),
        (3, ", stop => '{a,zz}', repetition_penalty => 1.5, min_p => 0.1, no_repeat_ngram => 2"),
    ],
)  # fmt: skip
def test_batch_is_one_by_one(m, n, more):
    """Prompts of many lengths, ends at many steps, more sequences than are computed at a time."""
    got = batch(m, PROMPTS, f"{more}, n => {n}, seed => 40")
    assert got == one_by_one(m, PROMPTS, n, more)


def test_every_setting_gives_the_same_bits(m):
    expected = one_by_one(m, PROMPTS[:3], 2)
    for settings in ("SET pg_llm.threads = 1", "SET pg_llm.threads = 3", "SET pg_llm.isa = scalar"):
        m.execute(settings)
        assert batch(m, PROMPTS[:3], ", n => 2, seed => 40") == expected
    m.execute("RESET pg_llm.threads; RESET pg_llm.isa")


def test_without_a_seed_each_text_says_its_own(m):
    rows = batch(m, ["ab", "ab"], ", n => 3, max_tokens => 40")
    assert len({r[2] for r in rows}) == len({r[5] for r in rows}) == 6
    for _, _, text, _, _, seed in rows:
        query = "SELECT llm_generate('ab', 40, model => 'm', seed => %s)"
        assert m.execute(query, [seed]).fetchone()[0] == text
    (last,) = batch(m, ["ab"], f", n => 2, seed => {2**63 - 1}")[1:]
    assert last[5] == -(2**63)  # seeds wrap


def test_a_graph_without_cache(m):
    """Attention ahead: each step computes whole sequences, of one length at a time."""
    make(m, "both", n_layer=1)
    m.execute(
        """UPDATE llm_graph SET attrs = '{"n_head": 2, "causal": false}'
        WHERE model = 'both' AND op = 'attention'"""
    )
    rows = m.execute(
        "SELECT text FROM llm_generate_batch('{abc,z,hello}', 6, model => 'both', seed => 1, n => 2)"
    ).fetchall()
    query = (
        "SELECT llm_generate(p, 6, model => 'both', seed => s) FROM unnest('{abc,z,hello}'::text[]) AS p, "
    )
    assert sorted(rows) == sorted(m.execute(query + "generate_series(1, 2) AS s").fetchall())


def test_an_empty_prompt_starts_from_the_end_token(m):
    m.execute("""UPDATE llm_model_config SET options = '{"eos_token_id": 7}' WHERE model = 'm'""")
    (row,) = batch(m, [""], ", max_tokens => 5, seed => 1")
    m.execute("UPDATE llm_model_config SET options = '{}' WHERE model = 'm'")
    assert row[2] == "".join(LETTERS[t] for t in row[3]) and len(row[3]) == 5


def test_limits(m):
    assert batch(m, []) == []
    for more, words in ((", n => 0", "n is 0"), (", n => 10001", "n is 10001"), (", topp => 0", "topp is 0")):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=words):
            batch(m, ["a"], more)
    for prompts, words in ((None, "prompts must not be NULL"), (["a", None], "prompt 2 is NULL")):
        with pytest.raises(psycopg.errors.NullValueNotAllowed, match=words):
            batch(m, prompts)
    with pytest.raises(
        psycopg.errors.ProgramLimitExceeded, match="301 tokens are more than the 300 positions"
    ):
        batch(m, ["a", "b" * 301])
