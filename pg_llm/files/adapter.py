"""PostgreSQL's tensor type as numpy arrays, for any psycopg 3 connection: register, register_async.

Binary form, all little-endian: int32 ndim, ndim int32 dimensions, then float32 elements, row-major.
Reading makes no copy: the array is a read-only view of the query result's memory.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import adapt, pq, sql
from psycopg.rows import tuple_row
from psycopg.types import TypeInfo

from pg_llm import catalog
from pg_llm.errors import NoExtensionError

MAX_DIMS = 8
# A field of the wire protocol is at most 1 GB; the server's limit for its values is the same.
MAX_ELEMENTS = (2**30 - 64) // 4

_TYPE = (
    "SELECT t.oid, t.typarray, n.nspname FROM pg_catalog.pg_extension AS e "
    "JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace "
    "JOIN pg_catalog.pg_type AS t ON t.typnamespace = n.oid AND t.typname = 'tensor' "
    "WHERE e.extname = 'pg_llm'"
)


def register(conn: psycopg.Connection) -> None:
    """Has conn send float arrays as tensor, int arrays as int[], and return tensors as float32 arrays.

    pg_llm.connect() has done it; this is for connections of your own, and for pools:
    psycopg_pool.ConnectionPool(conninfo, configure=pg_llm.register).
    Errors: NoExtensionError if the database does not have the extension, TypeError.
    """
    if not isinstance(conn, psycopg.Connection):
        hint = "; for async connections there is register_async" * isinstance(conn, psycopg.AsyncConnection)
        raise TypeError(f"register takes a psycopg 3 Connection, not {type(conn).__name__}{hint}")
    catalog.require_characters(conn)
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(_TYPE).fetchone()
    _register(conn, found)


async def register_async(conn: psycopg.AsyncConnection) -> None:
    """register for an async connection: await it, or AsyncConnectionPool(…, configure=pg_llm.register_async).

    Errors: as for register.
    """
    if not isinstance(conn, psycopg.AsyncConnection):
        raise TypeError(f"register_async takes a psycopg 3 AsyncConnection, not {type(conn).__name__}")
    catalog.require_characters(conn)
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        found = await (await cursor.execute(_TYPE)).fetchone()
    _register(conn, found)


def _register(conn: psycopg.Connection | psycopg.AsyncConnection, found: tuple[int, int, str] | None) -> None:
    if found is None:
        raise NoExtensionError
    oid, array_oid, schema = found
    adapters = conn.adapters
    # Registers tensor[] as well: a list of arrays. Literals are cast to regtype.
    name = sql.Identifier(schema, "tensor").as_string(conn)
    TypeInfo("tensor", oid, array_oid, regtype=name).register(conn)
    adapters.register_loader(oid, TensorTextLoader)
    adapters.register_loader(oid, TensorBinaryLoader)
    # The type's OID differs between databases, so each connection has dumpers of its own.
    oids = {**_INTEGERS, "tensor": (oid, array_oid)}
    for dumper in (_TextDumper, _BinaryDumper):
        adapters.register_dumper(np.ndarray, type(dumper.__name__, (dumper,), {"oid": oid, "oids": oids}))


def summary(array: np.ndarray) -> str:
    """One line with shape, first elements, mean and sd; small arrays are shown in full."""
    shape = ",".join(map(str, array.shape))
    if array.size == 0:
        return f"tensor({shape}) []"
    if array.size <= 8 and array.ndim <= 2:
        return _nested(array)
    first = ", ".join(f"{x:.4g}" for x in array.ravel()[:4])
    values = array.astype(np.float64)
    return f"tensor({shape}) [{first}, …] mean {values.mean():.4g} sd {values.std():.4g}"


def _nested(array) -> str:
    if array.ndim == 0:
        return f"{array:.6g}"
    return "[" + ",".join(_nested(row) for row in array) + "]"


def written(array: np.ndarray, most: int = 0) -> str:
    """A float32 array as the server writes a tensor; one of more than `most` elements as its summary.

    most: as pg_llm.display_limit; 0 is no limit.
    """
    shape = ",".join(map(str, array.shape))
    if array.size == 0 and not 0 < math.prod(array.shape[:-1]) <= 1000:
        return f"tensor({shape}) []"
    if not 0 < most < array.size:
        return _brackets(array.astype(np.float32, copy=False))
    first = ", ".join(_rounded(x) for x in array.ravel()[:3]) + (", …" if array.size > 3 else "")
    mean = array.astype(np.float64).mean()
    sd = np.sqrt(np.square((array - np.float32(mean)).astype(np.float64)).mean())
    return f"tensor({shape}) [{first}] mean {_rounded(mean)} sd {_rounded(sd)}"


def _brackets(array: np.ndarray) -> str:
    return f"[{','.join(map(_brackets, array))}]" if array.ndim else _shortest(np.float32(array))


def _shortest(x: np.float32) -> str:
    """The fewest digits that are nearer to x than to any other float, in PostgreSQL's form."""
    if not np.isfinite(x):
        return _rounded(x)
    with np.errstate(over="ignore"):
        below, above = ((float(x) + float(np.nextafter(x, np.float32(end)))) / 2 for end in (-np.inf, np.inf))
    # numpy's digits may lie halfway between two floats; PostgreSQL writes more then.
    texts = [np.format_float_scientific(x, trim="-", exp_digits=2), *(f"{x:.{n}e}" for n in range(9))]
    text = next(text for text in texts if below < float(text) < above)
    return f"{float(text):.15g}" if x == 0 or 1e-4 <= abs(x) < 1e6 else text


def _rounded(x: np.floating) -> str:
    return f"{x:.3g}".replace("nan", "NaN").replace("inf", "Infinity")


@dataclass(frozen=True)
class TensorSummary:
    """The server's one-line summary of a tensor too large for pg_llm.display_limit; for display only."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            f"only a summary of this tensor arrived: {self}\n"
            "Read its values with %%sql name <<, pg_llm.sql(...), conn.cursor(binary=True) "
            "or SET pg_llm.display_limit = 0."
        )


class TensorBinaryLoader(adapt.Loader):
    """Loads an array that shares memory with the query's result, which lives as long as the array does."""

    format = pq.Format.BINARY

    def load(self, data) -> np.ndarray:
        """The value as a read-only float32 array. Errors: DataError."""
        (ndim,) = struct.unpack_from("<i", data)
        if not 0 <= ndim <= MAX_DIMS:
            raise psycopg.DataError(
                f"a tensor arrived with {ndim} dimensions; at most {MAX_DIMS} are possible"
            )
        shape = struct.unpack_from(f"<{ndim}i", data, 4)
        array = np.frombuffer(data, "<f4", offset=4 + 4 * ndim).reshape(shape)
        array.flags.writeable = False
        return array


class TensorTextLoader(adapt.Loader):
    """For cursors in text mode: `[[1,2],[3,4]]` becomes an array, a summary stays text."""

    format = pq.Format.TEXT

    def load(self, data) -> np.ndarray | TensorSummary:
        """The value as a float32 array, or the server's summary of a large one."""
        text = bytes(data).decode()
        if text.startswith("tensor("):
            return _read_empty(text) if text.endswith(") []") else TensorSummary(text)
        return np.array(json.loads(text, parse_int=float), np.float32)  # an int has no -0


def _read_empty(text: str) -> np.ndarray:
    """Reads `tensor(0,3) []`, a shape without elements."""
    return np.zeros([int(d) for d in text[7:-4].split(",")], np.float32)


# SQL types for arrays: name → (OID of the element, OID of the array), and the format of an element.
_INTEGERS = {"int4": (23, 1007), "int8": (20, 1016), "bool": (16, 1000)}
_SENT_AS = {"int4": ">i4", "int8": ">i8", "bool": "u1"}


def _sql_type(array: np.ndarray) -> str:
    """tensor for floats; int4 for integers, or int8 where one does not fit; bool."""
    if np.ma.is_masked(array):
        raise psycopg.DataError(
            f"a masked array of shape {array.shape} has {np.ma.count_masked(array)} masked elements, which "
            "have no value; send array.filled(...)"
        )
    kind = array.dtype.kind
    if kind == "f":
        return "tensor"
    if kind == "b":
        return "bool"
    if kind in "iu":
        fits = array.size == 0 or (-(2**31) <= array.min() and array.max() < 2**31)
        if array.size and array.max() > 2**63 - 1:
            raise psycopg.DataError(f"{array.max()} is too large for a bigint (at most {2**63 - 1})")
        return "int4" if fits else "int8"
    raise psycopg.ProgrammingError(
        f"an array of {array.dtype} has no SQL type; float arrays become tensor, integer arrays int[]"
    )


def _to_float32(array: np.ndarray) -> np.ndarray:
    """C-ordered little-endian float32; rejects finite values that would become infinite."""
    if array.ndim > MAX_DIMS:
        raise psycopg.DataError(
            f"an array of shape {array.shape} has {array.ndim} dimensions; a tensor has at most 8"
        )
    if array.size > MAX_ELEMENTS:
        size = f"{array.size:,} elements; one SQL value holds {MAX_ELEMENTS:,}"
        raise psycopg.DataError(f"an array of shape {array.shape} has {size}")
    with np.errstate(over="ignore"):
        small = array.astype("<f4", order="C")
    lost = np.isfinite(array) & ~np.isfinite(small) if array.dtype.itemsize > 4 else np.False_
    if lost.any():
        raise psycopg.DataError(f"{array[lost][0]:g} is too large for a tensor's float32 (at most 3.4e38)")
    return small


class _ArrayDumper(adapt.Dumper):
    """One dumper per SQL type of an array: psycopg calls get_key, then upgrade."""

    oids: dict = {}
    sql_type = "tensor"

    def get_key(self, obj, format):
        return (self.cls, _sql_type(obj), obj.ndim == 0)

    def upgrade(self, obj, format):
        dumper = type(self)(self.cls)
        dumper.sql_type = _sql_type(obj)
        element, array = self.oids[dumper.sql_type]
        # A tensor may have no dimension; integers without one are a single integer.
        dumper.oid = element if dumper.sql_type == "tensor" or obj.ndim == 0 else array
        return dumper


class _BinaryDumper(_ArrayDumper):
    format = pq.Format.BINARY

    def dump(self, obj):
        if self.sql_type == "tensor":
            return struct.pack(f"<{obj.ndim + 1}i", obj.ndim, *obj.shape) + _to_float32(obj).tobytes()
        # PostgreSQL's arrays: ndim, has NULLs, element type; length, first index of each dimension; elements.
        sent = np.dtype(_SENT_AS[self.sql_type])
        if obj.ndim == 0:
            return obj.astype(sent).tobytes()
        ndim = obj.ndim if obj.size else 0
        head = struct.pack("!iii", ndim, 0, self.oids[self.sql_type][0])
        head += b"".join(struct.pack("!ii", length, 1) for length in obj.shape[:ndim])
        cells = np.empty(obj.size, [("length", ">i4"), ("value", sent)])
        cells["length"] = sent.itemsize
        cells["value"] = obj.ravel()
        return head + cells.tobytes()


class _TextDumper(_ArrayDumper):
    """For text mode: client-side cursors and COPY in text form."""

    format = pq.Format.TEXT

    def dump(self, obj):
        if self.sql_type != "tensor":
            return json.dumps(obj.tolist()).replace("[", "{").replace("]", "}").encode()
        array = _to_float32(obj)
        if array.size == 0:
            return f"tensor({','.join(map(str, array.shape))}) []".encode()
        return json.dumps(array.tolist(), separators=(",", ":")).encode()
