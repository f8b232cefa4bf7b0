"""Query results as pandas DataFrames that know how to show a tensor."""

from __future__ import annotations

import numpy as np
import pandas as pd
import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from pg_llm import render, session, sqltext

ROWS_SHOWN = 50
DIGITS = 6
_FLOAT4, _FLOATS, _INTEGERS, _BOOL = 700, (701, 1700), (20, 21, 23, 26), 16


class Frame(pd.DataFrame):
    """A DataFrame whose cells may hold tensors; they are shown as one line each."""

    @property
    def _constructor(self):
        return Frame

    def _table(self, draw):
        if not isinstance(self.index, pd.RangeIndex):
            return None
        shown = self.head(ROWS_SHOWN)
        rows = zip(*(shown.iloc[:, i].tolist() for i in range(shown.shape[1])), strict=True)
        rows = [[None if v is pd.NA else v for v in row] for row in rows]
        note = f"{len(self):,} rows, the first {ROWS_SHOWN} shown" if len(self) > ROWS_SHOWN else ""
        return draw(self.columns, rows, DIGITS, note)

    def _repr_html_(self):
        return self._table(render.html_table) or super()._repr_html_()

    def __repr__(self):
        return self._table(render.text_table) or super().__repr__()


def sql(query: str, /, *, conn: psycopg.Connection | None = None, **params) -> Frame | None:
    """The last result of some SQL as a DataFrame, None if there is none.

    Tensors arrive as read-only float32 arrays, int[] as lists, numeric as float64. Parameters are written
    %(name)s, and then a percent sign %%. conn: another connection than the notebook's.

    >>> pg_llm.sql("SELECT name, data FROM llm_param WHERE model = %(m)s", m="my_gpt")  # doctest: +SKIP
    """
    result = None
    with session.connection(conn) as chosen, chosen.cursor(binary=True, row_factory=tuple_row) as cursor:
        for statement in sqltext.split(query):
            cursor.execute(statement, params or None)
            if cursor.description:
                result = frame(cursor)
    return result


def frame(cursor: psycopg.Cursor) -> Frame:
    """All rows of an executed cursor, each column in the numpy type that fits it."""
    rows = cursor.fetchall()
    columns = []
    for i, column in enumerate(cursor.description):
        values = [row[i] for row in rows]
        if cursor.adapters.get_loader(column.type_code, pq.Format.BINARY) is None:
            values = [_decode(v) for v in values]
        columns.append(_typed(values, column.type_code))
    result = Frame(dict(enumerate(columns)))
    result.columns = [column.name for column in cursor.description]
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


def _decode(value):
    """Types that psycopg does not know in binary form arrive as bytes; those of enums are text."""
    if not isinstance(value, bytes):
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return text if text.isprintable() else value
