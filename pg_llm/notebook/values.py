"""Values of a result that no Python type can hold: they are the server's text.

A date may be infinite, before Christ or after the year 9999, a time 24:00, an interval a month long; JSON may
be deeper, or have longer integers, than Python reads. One such value must not cost the whole result.
"""

from __future__ import annotations

import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap, Loader

TIMES = ("date", "time", "timetz", "timestamp", "timestamptz", "interval")
_JSON = ("json", "jsonb")
_CHAR = 18  # a byte, which need not be a character


def register(adapters: AdaptersMap) -> None:
    """Makes text of what the loaders of a connection or cursor cannot read."""
    wrapped = [(name, pq.Format.TEXT) for name in (*TIMES, *_JSON)]
    for name, form in [*wrapped, *((name, pq.Format.BINARY) for name in _JSON)]:
        oid = adapters.types[name].oid
        inner = adapters.get_loader(oid, form)
        if inner and not issubclass(inner, _OrText):
            base = _Interval if name == "interval" else _OrText
            adapters.register_loader(oid, type(base.__name__, (base,), {"format": form, "inner": inner}))


def only_text(adapters: AdaptersMap) -> set[int]:
    """The types whose values are text at times, which a binary result does not contain."""
    return {_CHAR, *(adapters.types[name].oid for name in TIMES)}


class _OrText(Loader):
    inner: type[Loader]

    def __init__(self, oid: int, context: psycopg.abc.AdaptContext | None = None):
        super().__init__(oid, context)
        self._load = self.inner(oid, context).load

    def load(self, data):
        try:
            return self._load(data)
        except (
            Exception
        ):  # each type fails in ways of its own: DataError, RecursionError, NotImplementedError
            return self._text(data)

    def _text(self, data) -> str:
        encoding = self.connection.info.encoding if self.connection else "utf-8"
        return bytes(data).removeprefix(b"\1").decode(encoding)  # binary jsonb begins with its version


class _Interval(_OrText):
    def load(self, data):
        # psycopg makes 30 days of a month, 365 of a year, and nothing of infinity.
        has_no_length = any(unit in bytes(data) for unit in (b"mon", b"year", b"infinity"))
        return self._text(data) if has_no_length else super().load(data)
