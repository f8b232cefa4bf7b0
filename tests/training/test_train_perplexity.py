"""Loss and perplexity over a dataset, against losses of single rows; bits per character."""

import math

import psycopg
import pytest
from helpers.tiny_model import make


@pytest.fixture(scope="module")
def text():
    return "abcdefghijkl"


@pytest.fixture
def m(conn, text):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'm'")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
    conn.execute("DELETE FROM llm_dataset")
    make(conn, "m")
    for length in (3, 12, 7, 12, 5, 1, 12, 9, 2, 11, 12, 4):
        row = [ord(c) - 97 for c in text[:length]]
        target = [*row[1:], -1 if length % 3 else 25]
        conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('d', %s, %s)", (row, target))
    return conn


def by_rows(conn, limit=None):
    rows = conn.execute("SELECT tokens, target FROM llm_dataset ORDER BY id LIMIT %s", (limit,)).fetchall()
    total = count = 0
    for tokens, target in rows:
        scored = sum(t >= 0 for t in target)
        if scored:
            loss = conn.execute("SELECT llm_loss('m', %s, %s)", (tokens, target)).fetchone()[0]
            total, count = total + loss * scored, count + scored
    return total / count, count


def test_mean_over_all_targets(m):
    for limit in (None, 1, 5, 100):
        query = "SELECT loss, perplexity, tokens, bits_per_character FROM llm_perplexity('m', 'd', %s)"
        loss, perplexity, tokens, bits = m.execute(query, (limit,)).fetchone()
        expected, count = by_rows(m, limit)
        assert tokens == count and loss == pytest.approx(expected, rel=1e-6)
        assert perplexity == pytest.approx(math.exp(loss))
        assert bits == pytest.approx(loss / math.log(2))  # tokens are letters
        assert m.execute(query, (limit,)).fetchone() == (loss, perplexity, tokens, bits)


def test_characters_are_of_text(m):
    """A token of two characters counts twice, a special token or a character's last byte not at all."""
    m.execute("UPDATE llm_bpe_vocab SET bytes = 'bä' WHERE model = 'm' AND token_id = 1")
    m.execute("UPDATE llm_bpe_vocab SET bytes = '\\xa4' WHERE model = 'm' AND token_id = 2")
    special = (
        "UPDATE llm_bpe_vocab SET token = '<|end|>', bytes = '<|end|>' WHERE model = 'm' AND token_id = 25"
    )
    m.execute(special)
    lengths = "SELECT sum(CASE t WHEN 1 THEN 2 WHEN 2 THEN 0 WHEN 25 THEN 0 ELSE 1 END) FROM llm_dataset,"
    lengths += " unnest(target) AS t WHERE t >= 0"
    characters = m.execute(lengths).fetchone()[0]
    query = "SELECT loss, tokens, bits_per_character FROM llm_perplexity('m', 'd')"
    loss, tokens, bits = m.execute(query).fetchone()
    assert bits == pytest.approx(loss * tokens / math.log(2) / characters)


def test_no_tokenizer_no_characters(m):
    m.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
    assert m.execute("SELECT bits_per_character FROM llm_perplexity('m', 'd')").fetchone() == (None,)


def test_nothing_to_score(m):
    m.execute("UPDATE llm_dataset SET target = '{-1}', tokens = '{1}'")
    with pytest.raises(psycopg.errors.NoData, match="no target that counts"):
        m.execute("SELECT llm_perplexity('m', 'd')")


def test_the_same_bits_on_every_level(m):
    results = set()
    for isa in ("scalar", "avx2", "avx512"):
        for threads in (1, 2):
            try:
                m.execute(f"SET pg_llm.isa = {isa}")
            except psycopg.errors.InvalidParameterValue:
                continue
            m.execute(f"SET pg_llm.threads = {threads}")
            results.add(m.execute("SELECT llm_perplexity('m', 'd')").fetchone())
    m.execute("RESET pg_llm.isa")
    m.execute("RESET pg_llm.threads")
    assert len(results) == 1
