"""Drawings of notebook 01: broadcasting, a matrix product as a join, two layers folded into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing, shade

CELL, HEIGHT, GAP = 40, 26, 34
Rows = Sequence[Sequence[float]]


def broadcasting(matrix, others: Sequence) -> Drawing:
    """matrix + other, a line for each of the others, with the repeated elements of the other one in grey.

    matrix: (M,N). others: tensors that broadcast with it. Errors: ValueError where one does not.
    """
    a = np.asarray(matrix, float)
    lines = [(np.asarray(other, float), a + np.asarray(other, float)) for other in others]
    rows, columns = a.shape
    wide, tall = columns * CELL, rows * HEIGHT
    step = tall + 50
    told = [f"{_shape(a)} + {_shape(b)} is {_shape(total)}: {total.tolist()}." for b, total in lines]
    d = Drawing(
        140 + 3 * wide + 4 * GAP, 50 + step * len(lines),
        "The same matrix plus tensors of smaller shapes, whose elements are repeated until the shapes agree. "
        + " ".join(told), title="Broadcasting: the smaller shape is repeated",
    )  # fmt: skip
    for n, (b, total) in enumerate(lines):
        y = 60 + n * step
        d.text(118, y + tall / 2 - 6, _aligned(a, b), anchor="end", mono=True)
        x = 140
        d.matrix(x, y, a, cell=CELL, height=HEIGHT, digits=0, limit=1e9)
        d.text(x + wide + GAP / 2, y + tall / 2 + 5, "+", size=17)
        x += wide + GAP
        _repeated(d, x, y, b, a.shape)
        d.text(x + wide + GAP / 2, y + tall / 2 + 5, "=", size=17)
        d.matrix(x + wide + GAP, y, total, cell=CELL, height=HEIGHT, digits=0, limit=1e9)
    return d


def _repeated(d: Drawing, x: float, y: float, tensor: np.ndarray, shape: tuple[int, ...]) -> None:
    """The tensor broadcast to the shape: its own elements in blue, the repetitions in grey."""
    own = (1,) * (len(shape) - tensor.ndim) + tensor.shape
    full = np.broadcast_to(tensor, shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            first = i < own[0] and j < own[1]
            left, top = x + j * CELL, y + i * HEIGHT
            d.box(left, top, CELL, HEIGHT, fill=shade(0.3) if first else "#ffffff",
                  line=BLUE if first else GREY, dashed=not first)  # fmt: skip
            d.text(left + CELL / 2, top + HEIGHT / 2 + 4, f"{full[i, j]:g}", size=12,
                   colour=INK if first else "#5f6972")  # fmt: skip


def _aligned(a: np.ndarray, b: np.ndarray) -> str:
    """Both shapes below one another, as broadcasting aligns them: at the right."""
    return f"({_lengths(a)})\n({_lengths(b)})"


def _shape(tensor: np.ndarray) -> str:
    return f"shape ({_lengths(tensor)})"


def _lengths(tensor: np.ndarray) -> str:
    return ",".join(map(str, tensor.shape))


def matmul_as_join(a: Rows, b: Rows, row: int, column: int) -> Drawing:
    """One element of a @ b as a join: rows of a with i = row meet rows of b with j = column where a.j = b.i.

    a: (M,K). b: (K,N). row, column: the element that is drawn.
    """
    left = [(i, j, v) for i, line in enumerate(a) for j, v in enumerate(line)]
    right = [(i, j, v) for i, line in enumerate(b) for j, v in enumerate(line)]
    products = [(k, v, b[k][column]) for k, v in enumerate(a[row])]
    total = sum(x * y for _, x, y in products)
    terms = " + ".join(f"{x:g}·{y:g}" for _, x, y in products)
    height = 96 + 26 * max(len(left), len(right)) + 60
    d = Drawing(
        660, height,
        f"Two tables with the columns i, j, value: a has {len(left)} rows, b has {len(right)}. "
        f"The rows of a with i = {row} are joined to the rows of b with j = {column} where a.j equals b.i. "
        f"Each pair gives a product, and their sum, {terms} = {total:g}, is the element ({row},{column}).",
        title="A matrix product is a join",
    )  # fmt: skip
    at_left = _table(d, 30, 84, "a", left, [i == row for i, _, _ in left], BLUE, key=1)
    at_right = _table(d, 290, 84, "b", right, [j == column for _, j, _ in right], ORANGE, key=0)
    d.text(550, 54, "a.value · b.value", bold=True)
    for k, x, y in products:
        start, end = at_left[row * len(a[0]) + k], at_right[k * len(b[0]) + column]
        d.arrow((start[1], start[2]), (end[0], end[2]), width=1.6)
        d.text(500, end[2] + 4, f"{x:g} · {y:g} = {x * y:g}", anchor="start")
        d.line((end[1] + 6, end[2]), (492, end[2]), colour=GREY, dashed=True)
    d.text(225, height - 58, "a.j = b.i", size=12, mono=True)
    d.text(30, height - 22, f"GROUP BY a.i, b.j:  element ({row},{column}) = {terms} = {total:g}", size=14,
           bold=True, anchor="start")  # fmt: skip
    return d


def _table(d: Drawing, x: float, y: float, name: str, rows, marked: Sequence[bool], colour: str,
           key: int) -> list[tuple[float, float, float]]:  # fmt: skip
    """A table of (i, j, value), the marked rows tinted; returns (left, right, middle) of each row."""
    wide = 46
    d.text(x + 1.5 * wide, y - 30, name, size=15, bold=True, mono=True)
    for n, title in enumerate(("i", "j", "value")):
        d.text(x + (n + 0.5) * wide, y - 8, title, size=12, mono=True, bold=n == key)
    sides = []
    for n, (row, is_marked) in enumerate(zip(rows, marked, strict=True)):
        top = y + 26 * n
        for c, value in enumerate(row):
            strong = is_marked and c == key
            fill = shade(0.75 if strong else 0.22, colour) if is_marked else "#ffffff"
            d.box(x + c * wide, top, wide, 26, f"{value:g}", fill=fill, line="#b8c0c8", size=12)
        sides.append((x, x + 3 * wide, top + 13))
    return sides


def two_layers() -> Drawing:
    """Two linear layers as the one that equals them, and the nonlinearity that keeps them apart."""
    d = Drawing(
        640, 248,
        "Above: x goes through @ w1, + b1, @ w2, + b2. In the middle: one layer with w = w1 @ w2 and "
        "b = (b1 @ w2) + b2 gives the same. Below: with relu between the two layers there is no such layer.",
        title="Two layers are one, unless something bends between them",
    )  # fmt: skip
    _chain(d, 60, ["x", "@ w1", "+ b1", "@ w2", "+ b2", "y"])
    d.text(320, 116, "equals", colour="#5f6972")
    _chain(d, 130, ["x", "@ w", "+ b", "y"], note="w = w1 @ w2,   b = (b1 @ w2) + b2")
    d.text(320, 184, "does not equal", colour="#5f6972")
    _chain(d, 198, ["x", "@ w1", "+ b1", "relu", "@ w2", "+ b2", "y"])
    return d


def _chain(d: Drawing, y: float, names: Sequence[str], note: str = "") -> None:
    """Boxes in a line, with arrows between them; relu is orange."""
    before = None
    for n, name in enumerate(names):
        plain = name in ("x", "y")
        fill = "#ffffff" if plain else shade(0.6, ORANGE) if name == "relu" else "#e8f1f8"
        box = d.box(20 + 86 * n, y, 34 if plain else 60, 32, name, fill=fill,
                    line=ORANGE if name == "relu" else BLUE, mono=True)  # fmt: skip
        if before:
            d.arrow(before.right, box.left)
        before = box
    if note and before:
        d.text(before.x + before.width + 16, y + 21, note, anchor="start", size=12, mono=True)
