"""Query results as tables: the same look for %%sql, for pg_llm.sql and in saved notebooks.

Spaces in text are kept, since they are significant in a tokenizer's table.
"""

from __future__ import annotations

import html
import json

import numpy as np

from pg_llm.files.adapter import summary, written

LONGEST = 2000  # characters shown of one text
_TEXT = ' style="text-align:left;white-space:pre-wrap"'


class JsonList(list):
    """A list of JSON, which prints as JSON: ["a", null, true]."""

    def __repr__(self):
        return json.dumps(self, ensure_ascii=False)


def read_json(text: str | bytes):
    """json.loads for the connection of a notebook."""
    value = json.loads(text)
    return JsonList(value) if isinstance(value, list) else value


def show(value, digits: int | None = None) -> str:
    """A value as text; digits: significant digits of a float, None for all digits."""
    if value is None:
        return "NULL"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        # As PostgreSQL writes it: 2, not 2.0.
        return str(value).removesuffix(".0") if digits is None else f"{value:.{digits}g}"
    if isinstance(value, np.ndarray):
        return summary(value) if value.dtype.kind == "f" else str(value.tolist())
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def as_written(value, most: int = 0):
    """value with arrays of floats as the server writes tensors, those of more than `most` elements shortened.

    most: as pg_llm.display_limit; 0 is no limit.
    """
    if type(value) is list:  # an SQL array; one of JSON prints itself
        return [as_written(each, most) for each in value]
    return written(value, most) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def html_table(columns, rows, digits: int | None = None, note: str = "") -> str:
    """An HTML table; numbers are right-aligned, everything else left-aligned."""
    rows = list(rows)
    right = [_is_numeric(row[i] for row in rows) for i in range(len(columns))]
    head = "".join(
        f"<th{'' if r else _TEXT}>{html.escape(str(c))}</th>" for c, r in zip(columns, right, strict=True)
    )
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for row in rows:
        cells = (
            f"<td{'' if r else _TEXT}>{html.escape(show(v, digits))}</td>"
            for v, r in zip(row, right, strict=True)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>"]
    if note:
        lines.append(f"<em>{html.escape(note)}</em>")
    return "\n".join(lines)


def text_table(columns, rows, digits: int | None = None, note: str = "") -> str:
    """The same table as plain text."""
    rows = list(rows)
    right = [_is_numeric(row[i] for row in rows) for i in range(len(columns))]
    cells = [[str(c) for c in columns]]
    cells += [[show(v, digits).replace("\n", "\\n") for v in row] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join([*lines, note] if note else lines)


def _is_numeric(values) -> bool:
    from decimal import Decimal

    numbers = (int, float, Decimal, np.integer, np.floating)
    present = [v for v in values if v is not None]
    return bool(present) and all(isinstance(v, numbers) and not isinstance(v, bool) for v in present)
