"""Query results as pandas DataFrames that display tensors, and functions that read the rows of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.notebook import hints, parameters, render, session, sqltext, statement

_FLOAT4, _FLOATS, _INTEGERS, _BOOL = 700, (701, 1700), (20, 21, 23, 26), 16


class Frame(pd.DataFrame):
    """A pandas DataFrame that displays each tensor in one line.

    pandas' options display.max_rows, display.max_columns and display.precision hold; the precision counts
    significant digits. The index is shown unless it is an unnamed RangeIndex.
    """

    @property
    def _constructor(self):
        return Frame

    def _table(self, draw: Callable[..., str]) -> str:
        most, wide = pd.get_option("display.max_rows"), pd.get_option("display.max_columns")
        shown = self.head(most) if most else self
        columns = [(str(name), shown.iloc[:, i].tolist()) for i, name in enumerate(self.columns)]
        if wide and len(columns) > wide:
            left, right = wide - wide // 2, wide // 2
            columns = [*columns[:left], ("…", ["…"] * len(shown)), *columns[len(columns) - right :]]
        if not isinstance(self.index, pd.RangeIndex) or self.index.name is not None:
            levels = enumerate(self.index.names)
            index = [(str(name or ""), shown.index.get_level_values(i).tolist()) for i, name in levels]
            columns = [*index, *columns]
        rows = zip(*(values for _, values in columns), strict=True)
        cells = [[None if v is pd.NA else v for v in row] for row in rows]
        note = f"{len(self):,} rows, the first {len(shown)} shown" if len(self) > len(shown) else ""
        return draw([name for name, _ in columns], cells, pd.get_option("display.precision"), note)

    def _repr_html_(self) -> str:
        return self._table(render.html_table)

    def __repr__(self) -> str:
        return self._table(render.text_table)


def sql(
    query: catalog.Query,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    conn: psycopg.Connection | None = None,
    **named: Any,
) -> Frame | None:
    """Runs SQL statements; returns the last one's rows as a DataFrame, None if it returns no rows.

    Tensors become read-only float32 arrays, int[] lists, numeric float64; what Python has no type for
    (points, infinite dates, months) is the server's text, and COPY … TO STDOUT is a column of lines.
    Keyword arguments, or the items of params, are parameters: :name in the query, or %(name)s as in psycopg,
    where a percent sign is then %%. A dict is sent as JSON, a tuple, Series or set as an array, NA as NULL;
    IN :name with a list is = ANY(:name).
    Unlike a cell's, its result has all rows; one that memory cannot hold is an error.
    conn: None is the notebook's connection. Errors: psycopg.Error, KitError.

    >>> pg_llm.sql("SELECT name, data FROM llm_param WHERE model = :m", m="my_gpt")  # doctest: +SKIP
    """
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(
            f"parameters have names: pg_llm.sql('SELECT :x', x=1), or a dict; got {type(params).__name__}"
        )
    known = {**(params or {}), **named}
    result = None
    with session.connection(conn) as chosen:
        statements = sqltext.split(_text(query, chosen))
        if not statements:
            raise KitError("there is no statement in this query")
        values = parameters.sent(known)
        for written in statements:
            each = sqltext.any_of(written, parameters.lists(known))
            bound = sqltext.bind(each, known, psycopgs=True)[0]
            with hints.about(each, known, chosen, is_cell=False):
                rows = statement.run(chosen, bound, values or None, binary=True)
            result = result if rows is None else frame(rows)
    return result


def _text(query: catalog.Query, conn: psycopg.Connection) -> str:
    if isinstance(query, psycopg.sql.Composable):
        return query.as_string(conn)
    if isinstance(query, bytes):
        return query.decode()
    if isinstance(query, str):
        return query
    raise TypeError(f"pg_llm.sql takes a query as text, not {type(query).__name__}")


# -- views as frames; the default is the session's newest run ----

_NEWEST = "coalesce(%(run)s, (SELECT max(run) FROM {0}.llm_run WHERE who = session_user))"
_MODEL = "coalesce(%(model)s, {0}.llm_default_model())"


def tape(run: int | None = None, *, conn: psycopg.Connection | None = None) -> Frame:
    """The operations of a run in the order of execution, one per row; run None: your newest.

    Columns run, id, op, name, inputs (names), shape and the cost of each.
    """
    return view(f"SELECT * FROM {{0}}.llm_tape_named WHERE run = {_NEWEST} ORDER BY id", conn, run=run)


def attention(
    run: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    *,
    conn: psycopg.Connection | None = None,
) -> Frame:
    """The attention weights of a traced run, one per row; run None: your newest.

    Columns batch, layer, head, query, query_token, key, key_token, weight; layer and head choose one.
    """
    query = (
        f"SELECT * FROM {{0}}.llm_attention_map WHERE run = {_NEWEST} "
        "AND (%(layer)s::int IS NULL OR layer = %(layer)s) AND (%(head)s::int IS NULL OR head = %(head)s) "
        "ORDER BY batch, layer, head, query, key"
    )
    return view(query, conn, run=run, layer=layer, head=head)


def activations(run: int | None = None, *, conn: psycopg.Connection | None = None) -> Frame:
    """Statistics of the tensors of a run, one per row; run None: your newest.

    Columns op, shape, mean, standard deviation and dead, the fraction of elements that are exactly 0.
    """
    return view(f"SELECT * FROM {{0}}.llm_activation WHERE run = {_NEWEST} ORDER BY id", conn, run=run)


def gradients(
    model: str | None = None, run: int | None = None, *, conn: psycopg.Connection | None = None
) -> Frame:
    """The gradients of a model, one parameter per row: norm, weight_norm, ratio, largest element.

    run: the gradients of that run's tensors instead, activations included.
    """
    if run is not None:
        return view("SELECT * FROM {0}.llm_gradient WHERE run = %(run)s ORDER BY name", conn, run=run)
    query = f"SELECT * FROM {{0}}.llm_param_gradient WHERE model = {_MODEL} ORDER BY name"
    return view(query, conn, model=model)


def params(model: str | None = None, *, conn: psycopg.Connection | None = None) -> Frame:
    """The parameters of a model, one per row. Columns name, shape, numel, mean, sd."""
    query = (
        "SELECT name, {0}.shape(data) AS shape, numel, mean, sd FROM {0}.llm_param, "
        f"{{0}}.llm_tensor_stats(data) WHERE model = {_MODEL} ORDER BY name"
    )
    return view(query, conn, model=model)


def train_log(
    model: str | None = None, run: int | None = None, *, conn: psycopg.Connection | None = None
) -> Frame:
    """The training log of a model, one step per row.

    Columns run, step, lr, loss (nats per token), grad_norm, tokens, seconds.
    """
    query = (
        "SELECT run, step, lr, loss, grad_norm, tokens, seconds FROM {0}.llm_train_log "
        f"WHERE model = {_MODEL} AND (%(run)s::bigint IS NULL OR run = %(run)s) ORDER BY id"
    )
    return view(query, conn, model=model, run=run)


def view(query: str, conn: psycopg.Connection | None = None, **params) -> Frame:
    """The rows of a query as a Frame; {0} in it stands for the extension's schema."""
    with session.connection(conn) as chosen:
        found = statement.run(chosen, catalog.qualified(chosen, query), params, binary=True)
    assert found is not None
    return frame(found)


# -- rows to columns ----


def frame(found: statement.Rows) -> Frame:
    """Rows as a Frame, each column in the numpy dtype that fits its SQL type."""
    columns = [_typed([row[i] for row in found.rows], oid) for i, oid in enumerate(found.types)]
    result = Frame(dict(enumerate(columns)))
    result.columns = found.columns
    return result


def _typed(values: list, oid: int) -> pd.Series:
    missing = any(v is None for v in values)
    if oid == _FLOAT4:
        return pd.Series([np.nan if v is None else v for v in values], dtype=np.float32)
    if oid in _FLOATS:
        return pd.Series([np.nan if v is None else float(v) for v in values], dtype=np.float64)
    if oid in _INTEGERS:
        return pd.Series(values, dtype="Int64" if missing else np.int64)
    if oid == _BOOL and not missing:
        return pd.Series(values, dtype=bool)
    return pd.Series(values, dtype=object)
