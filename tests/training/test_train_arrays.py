"""llm_train_step with arrays in place of a row of llm_dataset: the same bits, errors before any change."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from helpers.training import SIZE, bits, everything, fill

LAYERS, HEADS, CHANNELS, POSITIONS, VOCAB, _ = SIZE
TOKENS, TARGETS = [3, 1, 4, 1, 5, 9, 2], [1, 4, 1, 5, 9, 2, -1]
SOFT = "UPDATE llm_graph SET attrs = %s WHERE model = 'small' AND name = 'targets'"


@pytest.fixture
def small(conn):
    """A random model named small."""
    conn.execute(
        "SELECT llm_create_model('small', %s, %s, %s, %s, %s), llm_init_model('small', 1)",
        [LAYERS, HEADS, CHANNELS, POSITIONS, VOCAB],
    )
    yield conn
    conn.execute("DELETE FROM llm_dataset")
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")


def labels(seed=0, shape=(7, VOCAB)):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([0.1] * shape[1], shape[0]).astype(np.float32)


def step(conn, tokens, targets, kind="int[]", more=""):
    query = f"SELECT llm_train_step('small', %s::int[], %s::{kind}, lr_max => 0.01, seed => 3{more})"
    return conn.execute(query, [tokens, targets]).fetchone()[0]


def by_row(conn, id, more=""):
    query = f"SELECT llm_train_step('small', %s, lr_max => 0.01, seed => 3{more})"
    return conn.execute(query, [id]).fetchone()[0]


@pytest.mark.parametrize(
    "more", ["", ", dropout_p => 0.3", ", positions => '{6,5,4,3,2,1,0}', trace => true"]
)
def test_the_bits_of_a_row(small, more):
    """Loss, weights and moments after two steps; nothing is left in llm_dataset."""
    query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('d', %s, %s) RETURNING id"
    (id,) = small.execute(query, [TOKENS, TARGETS]).fetchone()
    with small.transaction(force_rollback=True):
        expected = [by_row(small, id, more) for _ in range(2)], bits(small)
    before = bits(small)
    found = [step(small, TOKENS, TARGETS, more=more) for _ in range(2)], bits(small)
    assert found == expected and found[1] != before
    assert small.execute("SELECT id FROM llm_dataset").fetchall() == [(id,)]


def test_soft_labels(small):
    """As a row's tensor; the loss is the mean cross-entropy with the distributions."""
    small.execute(SOFT, ['{"shape": ["B", "T", "V"]}'])
    soft = labels()
    query = (
        "INSERT INTO llm_dataset (dataset, tokens, names, tensors) "
        "VALUES ('d', %s, '{targets}', ARRAY[%s::tensor]) RETURNING id"
    )
    (id,) = small.execute(query, [TOKENS, soft]).fetchone()
    with small.transaction(force_rollback=True):
        expected = [by_row(small, id, ", dropout_p => 0") for _ in range(2)], bits(small)
    logits = np.array(small.execute("SELECT llm_logits(%s::int[], 'small')", [TOKENS]).fetchone()[0], float)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = [step(small, TOKENS, soft, "tensor", ", dropout_p => 0") for _ in range(2)], bits(small)
    assert found == expected
    assert found[0][0] == pytest.approx(-(soft * logp).sum(1).mean(), rel=1e-5)


def test_undone_with_its_transaction(small):
    before = everything(small)
    with small.transaction(force_rollback=True):
        step(small, TOKENS, TARGETS)
    assert everything(small) == before


WRONG = [
    (None, TARGETS, "tokens is NULL"),
    (TOKENS, None, "targets is NULL"),
    ([], [], "tokens is empty"),
    (TOKENS, TARGETS[1:], "7 tokens and 6 targets"),
    ([3, None], [1, 2], "token 2 is NULL"),
    ([3, 4], [None, 2], "target 1 is NULL"),
    ([[3, 4]], [1, 2], "tokens has 2 dimensions"),
    ([3, 4], [[1, 2]], "targets has 2 dimensions"),
    ([3, VOCAB], [1, 2], f"token {VOCAB} at place 2 is outside the vocabulary of {VOCAB}"),
    ([-1, 3], [1, 2], "token -1 at place 1"),
    ([3, 4], [1, VOCAB], f"target {VOCAB} at place 2"),
    ([3, 4], [-1, -1], "none of the 2 targets counts"),
    ([3] * (POSITIONS + 1), [1] * (POSITIONS + 1), f"{POSITIONS}"),
]


@pytest.mark.parametrize(("tokens", "targets", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_wrong_arrays(small, tokens, targets, words):
    """Named, before anything changes."""
    fill(small, "d", np.array([[1, 2, 3]]))
    before = everything(small)
    with pytest.raises(psycopg.Error, match=words):
        step(small, tokens, targets)
    assert everything(small) == before
    assert small.execute("SELECT count(*) FROM llm_dataset").fetchone() == (1,)


def changed(value, at=(2, 5)):
    soft = labels()
    soft[at] = value
    return soft


@pytest.mark.parametrize(
    ("soft", "words"),
    [
        (changed(np.nan), r"targets has NaN at \(2,5\)"),
        (changed(np.inf), r"targets has Infinity at \(2,5\)"),
        (changed(-0.5), r"targets has -0.5 at \(2,5\)"),
        (labels(0, (6, VOCAB)), rf"targets is \(6,{VOCAB}\), expected \(7,{VOCAB}\)"),
        (labels(0, (7, VOCAB - 1)), rf"targets is \(7,{VOCAB - 1}\)"),
        (labels()[0], rf"targets is \({VOCAB}\)"),
        (None, "targets is NULL"),
    ],
)
def test_wrong_labels(small, soft, words):
    small.execute(SOFT, ['{"shape": ["B", "T", "V"]}'])
    before = everything(small)
    with pytest.raises(psycopg.Error, match=words):
        step(small, TOKENS, soft, "tensor")
    assert everything(small) == before
    assert small.execute("SELECT count(*) FROM llm_dataset").fetchone() == (0,)


def test_labels_of_the_other_kind(small):
    """Ids for a graph of distributions, distributions for a graph of ids, and a model that is not there."""
    with pytest.raises(psycopg.Error, match="takes ids, int") as error:
        step(small, TOKENS, labels(), "tensor")
    assert "UPDATE llm_graph SET attrs" in error.value.diag.message_hint
    small.execute(SOFT, ['{"shape": ["B", "T", "V"]}'])
    with pytest.raises(psycopg.Error, match="takes distributions"):
        step(small, TOKENS, TARGETS)
    with pytest.raises(psycopg.errors.UndefinedObject, match='no model "nothing"'):
        small.execute("SELECT llm_train_step('nothing', '{1}'::int[], '{1}'::int[])")
