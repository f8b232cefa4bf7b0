"""Drawings of fine-tuning: what was learned and forgotten, LoRA's two factors, a base with its adapters.

Each takes rows that a query returned, so that it draws the models at hand.
"""

from __future__ import annotations

import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, ORANGE, Drawing


def factors(module: str, k: int, n: int, rank: int) -> Drawing:
    """A weight matrix (k,n) and LoRA's factors A (rank,k) and B (n,rank) beside it, to one scale.

    A is drawn on its side, (k,rank), and B as (rank,n), so that the product has the matrix's own shape.
    Errors: ValueError unless k, n and rank are at least 1.
    """
    if min(k, n, rank) < 1:
        raise ValueError(f"factors: k, n and rank are at least 1; got {k}, {n} and {rank}")
    scale = 240 / max(k, n)
    wide, high, thin = n * scale, k * scale, max(rank * scale, 2)
    whole, few = k * n, rank * (k + n)
    height = high + 140
    drawing = Drawing(
        730, height,
        f"{module}: the frozen weight W has {k} rows and {n} columns, {whole:,} numbers. Beside it, "
        f"A, {k} by {rank}, and B, {rank} by {n}, have {few:,} numbers together, {few / whole:.0%} as many. "
        f"Their product has the shape of W and is added to it.",
        f"{module}: a frozen matrix and two thin ones",
    )  # fmt: skip
    top, left = 84, 50
    w = drawing.box(left, top, wide, high, f"W, frozen\n{k} × {n}", fill="#e8eaec", line=GREY)
    drawing.text(left + wide + 28, top + high / 2 + 6, "+", size=22)
    drawing.text(left + wide + 58, top + high / 2 + 5, "α/r ·", size=15)
    x = left + wide + 95
    a = drawing.box(x, top, thin, high, fill=BLUE)
    drawing.text(x + thin / 2, top - 9, f"A: {k} × {rank}", size=12, colour=BLUE)
    b = drawing.box(x + thin + 34, top, wide, thin, fill=ORANGE, line=ORANGE)
    drawing.text(b.x + wide / 2, top - 9, f"B: {rank} × {n}", size=12, colour=ORANGE)
    drawing.text(x + thin + 17, top + high / 2 + 6, "·", size=20)
    drawing.box(b.x, top + thin + 10, wide, high - thin - 10, f"the product: {k} × {n}\nrank {rank}",
                fill="#ffffff", line="#b8c0c8", dashed=True)  # fmt: skip
    base = top + high + 30
    drawing.text(w.x + wide / 2, base, f"{whole:,} numbers", size=13)
    drawing.text((a.x + b.x + wide) / 2, base, f"{few:,} numbers, {few / whole:.0%}", size=13, bold=True)
    return drawing


def changes(frame: pd.DataFrame, learned: str, forgotten: str, title: str = "") -> Drawing:
    """For each model two bars from the base's loss: its fall on a new list, its rise on the old.

    frame: columns model, new, old: the changes of the loss in nats per token, below zero where it fell.
    learned, forgotten: the names of the two lists. Errors: ValueError without rows.
    """
    if not len(frame):
        raise ValueError("changes: there are no rows to draw")
    rows = [(str(r[0]), float(r[1]), float(r[2])) for r in frame.iloc[:, :3].itertuples(index=False)]
    limit = max(max(abs(new), abs(old)) for _, new, old in rows) or 1
    step, top, middle, reach = 34, 84, 440, 170
    said = "; ".join(f"{name}: {learned} {new:+.3f}, {forgotten} {old:+.3f}" for name, new, old in rows)
    drawing = Drawing(
        720, top + step * len(rows) + 34,
        f"Change of the loss from the base, in nats per token. {said}.".replace("-", "−"),
        title or "What was learned, and what was forgotten",
    )  # fmt: skip
    drawing.text(middle - 10, 52, f"{learned}: the loss falls", size=12, colour=BLUE, anchor="end")
    drawing.text(middle + 10, 52, f"{forgotten}: the loss rises", size=12, colour=ORANGE, anchor="start")
    for k, (name, new, old) in enumerate(rows):
        y = top + step * k
        drawing.text(14, y + 16, name, size=13, anchor="start")
        for value, colour in ((new, BLUE), (old, ORANGE)):
            length = reach * abs(value) / limit
            x = middle - length if value < 0 else middle
            drawing.box(x, y, length, 24, fill=colour, line=colour)
            at = (x - 6, "end") if value < 0 else (x + length + 6, "start")
            text = f"{value:+.3f}".replace("-", "−")
            drawing.text(at[0], y + 17, text, size=12, anchor=at[1])
    bottom = top + step * len(rows)
    drawing.line((middle, top - 10), (middle, bottom), width=1.2)
    drawing.text(middle, bottom + 18, "the base", size=11, colour="#555")
    return drawing


def tree(frame: pd.DataFrame) -> Drawing:
    """A base model and the models that share its parameters, with what each stores itself.

    frame: columns model, base (None for the base itself), own and shared parameters.
    Errors: ValueError unless exactly one row has no base.
    """
    rows = [tuple(row) for row in frame.iloc[:, :4].itertuples(index=False)]
    roots = [row for row in rows if pd.isna(row[1])]
    if len(roots) != 1:
        raise ValueError(f"tree: one row without a base is expected; got {len(roots)}")
    (root, _, held, _), leaves = roots[0], [row for row in rows if not pd.isna(row[1])]
    gap = 210
    width = max(gap * len(leaves) + 40, 520)
    said = "; ".join(f"{name} stores {own:,} and shares {shared:,}" for name, _, own, shared in leaves)
    drawing = Drawing(
        width, 250,
        f"{root} stores {held:,} numbers, which are frozen. {said}.",
        "One base, stored once; adapters as rows beside it",
    )  # fmt: skip
    top = drawing.box(
        width / 2 - 120, 48, 240, 56, f"{root}\n{held:,} numbers, frozen", fill="#e8eaec", line=GREY
    )
    for k, (name, _, own, _) in enumerate(leaves):
        x = width / 2 + (k - (len(leaves) - 1) / 2) * gap
        leaf = drawing.box(x - 92, 172, 184, 54, f"{name}\n{own:,} numbers of its own", fill=BLUE)
        drawing.arrow(leaf.top, (top.x + 120 + (x - width / 2) * 0.35, 104))
        drawing.text(x, 244, "A and B of each module", size=11, colour="#555")
    drawing.text(width / 2, 142, "reads", size=11, colour="#555", anchor="middle")
    return drawing
