"""Values of Python as parameters of SQL: what psycopg cannot send, as what it obviously stands for.

A dict is JSON; a tuple, a Series, a set or a range is an array; a torch tensor is a tensor; NA and NaT are
NULL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from psycopg.adapt import AdaptersMap
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int4, Int4BinaryDumper, Int4Dumper, IntBinaryDumper, IntDumper

from pg_llm.errors import KitError

_NUMBERS = (int, float, np.integer, np.floating)
_SENT = frozenset({type(None), bool, int, float, str, bytes})  # by psycopg, as they are


class _Integer(IntDumper):
    _int2_dumper = Int4Dumper(Int4)  # type: ignore[assignment]


class _BinaryInteger(IntBinaryDumper):
    _int2_dumper = Int4BinaryDumper(Int4)  # type: ignore[assignment]


def register(adapters: AdaptersMap) -> None:
    """Makes a small number an integer, as it is when written in SQL.

    psycopg sends 200 as smallint, and :n * :n is then out of range.
    """
    adapters.register_dumper(int, _Integer)
    adapters.register_dumper(int, _BinaryInteger)


def lists(known: Mapping[str, Any]) -> set[str]:
    """The names of the variables that are lists of values."""
    return {n for n, value in known.items() if isinstance(value, (list, tuple, set, frozenset, range))}


def sent(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the form that psycopg sends. Errors: KitError for a table, or a list of mixed types."""
    found = {}
    for name, value in params.items():
        try:
            found[name] = value if type(value) in _SENT else _sent(value)
        except _NoValue as error:
            raise KitError(f":{name} {error}") from None
    return found


class _NoValue(Exception):
    """What is no value of SQL; its text says why, and what to do."""


def _sent(value: Any) -> Any:
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if kind in _SENT:
        return value
    if isinstance(value, Mapping):
        return _document(value)
    if kind.__name__ in ("NAType", "NaTType") and library == "pandas":
        return None
    if hasattr(value, "columns"):
        raise _NoValue(
            "is a table, and a parameter is one value. Its columns are lists: "
            "INSERT INTO t SELECT * FROM unnest(:a, :b) with a = list(table['a'])"
        )
    if hasattr(value, "DataFrame"):
        raise _NoValue(
            "is a result, and a parameter is one value. A column of it is [row[0] for row in result]"
        )
    if library == "pandas" and hasattr(value, "isna"):
        has_nan = getattr(value.dtype, "kind", "O") == "f"  # where it is a number; elsewhere it means NULL
        pairs = zip(value.tolist(), value.isna(), strict=True)
        return _list([None if missing and not has_nan else each for each, missing in pairs])
    if isinstance(value, (set, frozenset, range)):
        return _list(list(value))
    if kind is tuple:
        found = _list(list(value))
        # Of several types it is a row, for a composite type.
        return found if len({*map(type, found)} - {type(None)}) < 2 else value
    if kind is list:
        return _list(value)
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return value.astype(f"{value.dtype.kind}8[us]").item()
    if isinstance(value, np.longdouble):
        return float(value)
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return _array(value)
    return str(value) if isinstance(value, PurePath) else value


def _array(value: Any) -> Any:
    if hasattr(value, "detach"):  # a tensor of torch, perhaps with a gradient, on a GPU, or in bfloat16
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    # The connection adapts numbers (an array of floats is a tensor); texts and dates are an array of SQL.
    return _list(list(array)) if array.dtype.kind in "OSUMm" and array.ndim == 1 else array


def _list(values: list) -> list:
    """Elements in the form that psycopg sends, which is a list of one type."""
    if {type(None), *map(type, values)} <= _SENT and len({*map(type, values)} - {type(None)}) < 2:
        return values
    found = [_sent(each) for each in values]
    kinds = {type(each) for each in found} - {type(None)}
    if len(kinds) > 1 and all(issubclass(kind, _NUMBERS) and kind is not bool for kind in kinds):
        found = [each.item() if isinstance(each, np.generic) else each for each in found]
        if float in map(type, found):
            found = [each if each is None else float(each) for each in found]
    return found


def _document(value: Mapping) -> Jsonb:
    try:
        text = json.dumps(value if isinstance(value, dict) else dict(value), default=_plain)
    except (TypeError, ValueError) as error:  # a key that is no text, or a dict that contains itself
        raise _NoValue(f"cannot be JSON: {error}") from None
    return Jsonb(value, dumps=lambda _: text)


def _plain(value: Any) -> Any:
    """What json calls for the other types in a dict."""
    if hasattr(value, "tolist"):
        return value.tolist()
    found = _sent(value)
    if found is value or isinstance(found, Jsonb):
        raise TypeError(f"it contains a value of type {type(value).__name__}")
    return found
