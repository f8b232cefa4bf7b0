"""SQLAlchemy's type for columns of type tensor: float32 arrays in Python, on any connection to PostgreSQL."""

from __future__ import annotations

from typing import Any

import numpy as np
from psycopg import sql
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

from pg_llm.files.adapter import TensorTextLoader, _TextDumper


class Tensor(UserDefinedType):
    """SQLAlchemy's column type for tensors: mapped_column(pg_llm.Tensor). Values are float32 arrays.

    Accepts arrays and nested lists; the engine's connections need not be registered.
    schema: the extension's, if it is not on search_path. Errors: ValueError, psycopg.DataError for what is no
    tensor.
    """

    cache_ok = True
    hashable = False
    render_bind_cast = True

    def __init__(self, schema: str | None = None):
        self.schema = schema

    def get_col_spec(self, **kwargs):
        """The type's name in SQL."""
        if self.schema is None:
            return "tensor"
        return sql.Identifier(self.schema).as_string() + ".tensor"

    @property
    def python_type(self):
        """The class of the values."""
        return np.ndarray

    def compare_values(self, x, y):
        """True if x and y are the same value: NaN equals NaN, and None only None."""
        return x is y or (x is not None and y is not None and np.array_equal(x, y, equal_nan=True))

    def bind_processor(self, dialect):
        """What turns a value into the text of a parameter."""
        return lambda value: None if value is None else _text(value)

    def literal_processor(self, dialect):
        """What turns a value into a literal of SQL."""
        return lambda value: f"'{_text(value)}'::{self.get_col_spec()}"

    def result_processor(self, dialect, coltype):
        """What turns a field of a result into an array."""

        def array(value):
            return TensorTextLoader(coltype or 0).load(value.encode()) if isinstance(value, str) else value

        return array


def _text(value: Any) -> str:
    return _TextDumper(np.ndarray).dump(np.asarray(value, np.float64)).decode()


ischema_names["tensor"] = Tensor  # for reflected tables
