"""broken_models(): a ward of small models of names, one of them healthy, for notebook 14.

Each illness is a change of rows or of one setting, so that a query can find it and an UPDATE can cure it.
"""

from __future__ import annotations

import json
import random
import string
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg

from pg_llm import catalog
from pg_llm.notebook import session
from pg_llm.notebook.names import load_names

LAYERS, HEADS, WIDTH, POSITIONS = 4, 4, 32, 16
BATCH, RATE, DROPOUT = 16, 0.006, 0.05
CHARTED = (0, 1, 2, 5, 10, 20, 50, 100, 150, 200, 250, 300)  # steps; a training ends at the last
NAMES = "SELECT lower(name) FROM name WHERE list IN ('female', 'male') ORDER BY md5(name), list"


class Illness(NamedTuple):
    """What is wrong with a model (%s in the updates), and the learning rate of its training."""

    graph: str = ""
    weights: str = ""
    data: str = ""
    rate: float = RATE


HEALTHY = Illness()
NO_MASK = Illness(
    graph="""UPDATE {0}.llm_graph SET attrs = attrs || '{{"causal": false}}'
             WHERE model = %s AND op = 'attention'"""
)
HIGH_RATE = Illness(rate=100 * RATE)
NO_RESIDUAL = Illness(  # a sum of one: the branch without the stream that it was added to
    graph="""UPDATE {0}.llm_graph SET op = 'total', inputs = inputs[2:2]
             WHERE model = %s AND (name LIKE '%%.residual' OR name ~ '^h\\.\\d+$')"""
)
BAD_START = Illness(
    weights="""UPDATE {0}.llm_param SET data = data * 30
               WHERE model = %s AND name LIKE '%%.weight' AND name NOT LIKE '%%ln\\_%%'"""
)
LEAK = Illness(data="UPDATE {0}.llm_dataset SET target = tokens WHERE split_part(dataset, '-', 1) = %s")
NO_POSITIONS = Illness(
    graph="""UPDATE {0}.llm_graph SET op = 'total', inputs = inputs[1:1]
             WHERE model = %s AND name = 'embd'"""
)


def broken_models(seed: int = 14, conn: psycopg.Connection | None = None) -> list[str]:
    """Makes a ward of seven small models of names, six of them ill, and returns their names.

    `control` is healthy. `patient_a` to `patient_e` have five illnesses, in an order that the seed chooses
    so that a name says nothing; `patient_f` has a sixth. Each has 4 layers of width 32, the tokenizer
    `letters`, a dataset of its own name and one for validation, and 300 steps of training behind it.
    Tables: `ward` (model), `name` (load_names), `visit` (model, step, run: a forward and backward pass over
    eight rows of its validation data, recorded at steps 0 and 300) and `chart` (model, step, name,
    weight_norm, update_norm: a parameter before a step, and the step's update). Models and tables of these
    names are replaced.
    Takes half a minute; a seed gives the same bits everywhere. Errors: KitError, psycopg.Error.
    Example: broken_models(seed=14)
    """
    illnesses = [NO_MASK, HIGH_RATE, NO_RESIDUAL, BAD_START, LEAK]
    random.Random(seed).shuffle(illnesses)
    ward = {"control": HEALTHY}
    ward |= {f"patient_{c}": each for c, each in zip("abcdef", [*illnesses, NO_POSITIONS], strict=True)}
    with session.connection(conn) as chosen, chosen.transaction():
        chosen.execute("SET LOCAL client_min_messages = warning")
        load_names(chosen)
        chosen.execute("DROP TABLE IF EXISTS ward, visit, chart")
        chosen.execute("CREATE TABLE ward AS SELECT unnest(%s::text[]) AS model", [list(ward)])
        chosen.execute("CREATE TABLE visit (model text, step bigint, run bigint)")
        chosen.execute(
            "CREATE TABLE chart (model text, step bigint, name text, weight_norm real, update_norm real)"
        )
        _load_letters(chosen)
        for model, illness in ward.items():
            _admit(chosen, model, illness)
            _train(chosen, model, illness.rate, illness.weights)
    return list(ward)


def retrain(model: str, rate: float = RATE, conn: psycopg.Connection | None = None) -> float:
    """Trains a model of the ward of broken_models() anew, as it stands now; returns its validation loss.

    From the initial weights that all of them had, for 300 steps; the learning rate falls during the last 50.
    Its rows in llm_train_log, `visit` and `chart` are replaced. Two models with the same architecture, data
    and rate have the same bits afterwards. Errors: KitError, psycopg.Error. Example: retrain("patient_a")
    """
    with session.connection(conn) as chosen, chosen.transaction():
        chosen.execute("SET LOCAL client_min_messages = warning")
        return _train(chosen, model, rate)


def _run(conn: psycopg.Connection, query: str, *arguments: Any) -> None:
    conn.execute(catalog.qualified(conn, query), arguments or None)


def _load_letters(conn: psycopg.Connection) -> None:
    """The tokenizer `letters`: the end token is 0, then a to z."""
    vocab = {token: i for i, token in enumerate(["<|endoftext|>", *string.ascii_lowercase])}
    files = json.dumps(vocab).encode(), None
    _run(conn, "SELECT {0}.pg_llm_load_bpe(%s, %s, 'letters', truncate => true)", *files)


def _admit(conn: psycopg.Connection, model: str, illness: Illness) -> None:
    """Makes a model's graph and dataset, with what is wrong with them; it has no weights yet."""
    _run(conn, "DELETE FROM {0}.llm_model_config WHERE model = %s", model)
    options = '{"eos_token_id": 0}'
    _run(
        conn, "SELECT {0}.llm_create_model(%s, %s, %s, %s, %s, 27, tokenizer => 'letters', options => %s)",
        model, LAYERS, HEADS, WIDTH, POSITIONS, options,
    )  # fmt: skip
    _run(
        conn,
        "SELECT {0}.llm_dataset_load(%s, %s, %s, validation => 0.1, truncate => true)",
        model,
        NAMES,
        model,
    )
    for update in filter(None, (illness.graph, illness.data)):
        _run(conn, update, model)


def _train(conn: psycopg.Connection, model: str, rate: float, weights: str = "") -> float:
    """Initial weights, changed by the update `weights`, a training and its chart; the validation loss."""
    for table in ("{0}.llm_train_log", "{0}.llm_train_run", "visit", "chart"):
        _run(conn, f"DELETE FROM {table} WHERE model = %s", model)
    _run(conn, "SELECT {0}.llm_init_model(%s, 1)", model)
    if weights:
        _run(conn, weights, model)
    _visit(conn, model, 0)
    for first, last in pairwise(CHARTED):
        _run(
            conn, "SELECT {0}.llm_train(%s, %s, batch_size => %s, lr_max => %s, min_lr => %s, warmup => 0, "
            "wd => 0, dropout_p => %s, seed => %s, notice_every => 0)",
            model, last - first, BATCH, rate, rate / 20 if last == CHARTED[-1] else rate, DROPOUT, first,
        )  # fmt: skip
        _chart(conn, model)
    _visit(conn, model, CHARTED[-1])
    return catalog.value(
        conn,
        catalog.qualified(conn, "SELECT loss FROM {0}.llm_dataset_loss(%s, %s)"),
        [model, f"{model}-validation"],
    )


def _chart(conn: psycopg.Connection, model: str) -> None:
    """The newest step of each parameter, from AdamW's moments, and the parameter before it."""
    _run(
        conn,
        """INSERT INTO chart
           SELECT model, step, name, {0}.norm(data + moved)::real, {0}.norm(moved)::real
           FROM {0}.llm_param JOIN (SELECT model, step, lr FROM {0}.llm_train_log) AS log USING (model, step),
                LATERAL (
                    SELECT m / (1 - 0.9 ^ step) / ({0}.sqrt(v / (1 - 0.999 ^ step)) + 1e-8)
                           * lr AS moved
                ) AS adam
           WHERE model = %s""",
        model,
    )


def _visit(conn: psycopg.Connection, model: str, step: int) -> None:
    """Records a forward and a backward pass over eight rows of the model's validation data."""
    _run(
        conn, "INSERT INTO visit SELECT %s, %s, {0}.llm_trace(%s, array_agg(tokens ORDER BY id), "
        "array_agg(target ORDER BY id)) "
        "FROM (SELECT * FROM {0}.llm_dataset WHERE dataset = %s ORDER BY id LIMIT 8) AS batch",
        model, step, model, f"{model}-validation",
    )  # fmt: skip
    _run(
        conn,
        "SELECT {0}.llm_backprop(max(id), %s) FROM {0}.llm_tape WHERE run = (SELECT max(run) FROM visit)",
        model,
    )
