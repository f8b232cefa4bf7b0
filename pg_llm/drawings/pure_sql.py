"""Drawings of GPT-2 as one recursive query: the chain of its CTEs, the query's own map, one number's path."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing

KINDS = {
    "product": ("#cfe3f1", BLUE, "join + GROUP BY: a sum of products"),
    "window": ("#fbe3d2", ORANGE, "window: statistics of a token"),
    "row": ("#ffffff", GREY, "row by row, or a look-up join"),
}
# name, kind, what it computes; a row of the drawing for each screenful
CHAIN = [
    ("1 embedding", [("token", "row", "t, id"), ("gpt, layer 0", "row", "wte + wpe")]),
    ("2 layer norm", [("x, w", "row", "last round's rows"), ("norm_1", "window", "mean, variance"),
                      ("ln_1", "row", "gain, bias")]),
    ("3 attention", [
        ("c_attn", "product", "× weights"), ("qkv", "row", "part, head, k"),
        ("score", "product", "query · key"), ("attention", "window", "softmax"),
        ("mix", "product", "weighted values"), ("proj", "product", "× weights"),
        ("x_mid", "row", "+ residual"),
    ]),
    ("4 MLP", [
        ("norm_2", "window", "mean, variance"), ("ln_2", "row", "gain, bias"),
        ("c_fc", "product", "× weights"), ("unit, act", "row", "GELU"), ("mlp", "product", "× weights"),
        ("gpt, l + 1", "row", "+ residual"),
    ]),
    ("5 logits", [("norm_f", "window", "mean, variance"), ("ln_f", "row", "gain, bias"),
                  ("logit", "product", "× wte")]),
]  # fmt: skip


def chain() -> Drawing:
    """The CTEs of the query in their order, a row for each screenful, with the loop over layers."""
    names = "; ".join(f"{title}: " + ", ".join(n for n, _, _ in boxes) for title, boxes in CHAIN)
    d = Drawing(
        860, 470,
        f"The common table expressions of the recursive query, by screenful. {names}. An arrow leads from "
        "the last box of the MLP back to x: this is the recursion over layers. Boxes are coloured by kind: "
        "sums of products, windows over a token's rows, and operations row by row.",
        title="GPT-2 as a chain of queries",
    )  # fmt: skip
    top, step, width, height = 66, 74, 98, 44
    first = last = None
    for r, (title, boxes) in enumerate(CHAIN):
        y = top + r * step
        d.text(14, y + 26, title, size=13, bold=True, anchor="start")
        before = None
        for k, (name, kind, says) in enumerate(boxes):
            fill, line, _ = KINDS[kind]
            box = d.box(124 + k * (width + 6), y, width, height, fill=fill, line=line)
            d.text(box.x + width / 2, y + 19, name, size=12, mono=True)
            d.text(box.x + width / 2, y + 35, says, size=11, colour="#4a5560")
            if before is not None:
                d.line(before.right, box.left, colour=INK)
            before = box
            if name == "x, w":
                first = box
            if name == "gpt, l + 1":
                last = box
    d.line((118, top + step - 12), (118, top + 3 * step + height + 12), colour=ORANGE, width=2)
    assert first is not None and last is not None
    side = 852
    d.line(last.right, (side, last.right[1]), colour=ORANGE, width=2)
    d.line((side, last.right[1]), (side, top + step - 12), colour=ORANGE, width=2)
    d.line((side, top + step - 12), (118, top + step - 12), colour=ORANGE, width=2)
    d.arrow((first.x + width / 2, top + step - 12), first.top, colour=ORANGE, width=2)
    d.text(640, top + step - 18, "recursion: once for each layer", size=12, colour=ORANGE)
    _legend(d, 124, 436)
    return d


def _legend(d: Drawing, x: float, y: float) -> None:
    for k, (fill, line, says) in enumerate(KINDS.values()):
        d.box(x + k * 245, y, 16, 16, fill=fill, line=line)
        d.text(x + 22 + k * 245, y + 13, says, size=12, anchor="start")


def query_map(sql: str) -> Drawing:
    """A map of a query's text: a block for each CTE, as tall as its lines, in the colour of its kind.

    sql: the query; comments `-- screenful N: title` begin a column. Errors: ValueError without any.
    """
    columns: list[tuple[str, list[list]]] = []
    for line in sql.strip("\n").split("\n"):
        heading = re.match(r"\s*-- (screenful \d+: .*)", line)
        named = re.match(r"\s*(?:\), |WITH |UNION ALL \(\s*WITH )?(\w+) AS (?:MATERIALIZED )?\(", line)
        if heading:
            columns.append((heading[1], []))
        elif columns and named:
            columns[-1][1].append([named[1], [line]])
        elif columns and columns[-1][1]:
            columns[-1][1][-1][1].append(line)
        elif columns:
            columns[-1][1].append(["", [line]])
    if not columns:
        raise ValueError("query_map: the query has no comment '-- screenful 1: …'")
    count = sum(len(blocks) for _, blocks in columns)
    lines = sum(len(body) for _, blocks in columns for _, body in blocks)
    unit, width = 7.2, 160
    tallest = max(sum(len(body) * unit + 8 for _, body in blocks) for _, blocks in columns)
    d = Drawing(
        24 + len(columns) * (width + 8), 100 + tallest,
        f"A map of the query: {count} blocks with {lines} lines in {len(columns)} screenfuls, "
        + ", ".join(f"{title} with {len(blocks)} blocks" for title, blocks in columns)
        + ". Attention has the most lines; blocks that sum products are blue, windows orange.",
        title=f"The whole query: {lines} lines",
    )  # fmt: skip
    for k, (title, blocks) in enumerate(columns):
        x, y = 14 + k * (width + 8), 66.0
        d.text(x, 54, title.replace("screenful ", ""), size=11, bold=True, anchor="start")
        for name, body in blocks:
            fill, line, _ = KINDS[_kind("\n".join(body))]
            height = len(body) * unit
            d.box(x, y, width, height, fill=fill, line=line)
            for n, text in enumerate(body):
                indent = len(text) - len(text.lstrip())
                long = min(len(text.strip()) * 0.9, width - 16 - indent * 0.9 - 60)
                at = y + (n + 0.5) * unit
                d.line(
                    (x + 66 + indent * 0.9, at),
                    (x + 66 + indent * 0.9 + max(4, long), at),
                    colour="#c3c9cf",
                    width=1.6,
                )
            d.text(x + 5, y + min(height / 2 + 4, 12), name, size=10, anchor="start", mono=True)
            y += height + 8
    _legend(d, 14, 74 + tallest)
    return d


def _kind(text: str) -> str:
    if "GROUP BY" in text and "sum(" in text:
        return "product"
    return "window" if "OVER" in text else "row"


def logit_path(steps: Sequence[tuple[str, float, float | None]]) -> Drawing:
    """One number on its way through the query: (CTE, its value, the kernel's value or None) for each step."""
    spoken = "; ".join(f"{name} {value:.4f}" for name, value, _ in steps)
    agree = all(kernel is None or abs(value - kernel) < 5e-5 for _, value, kernel in steps)
    verdict = "the same to four decimals" if agree else "another in some steps"
    d = Drawing(
        760, 74 + 27 * len(steps),
        f"The path of one number through the query, from embedding to logit: {spoken}. "
        f"Where the kernel's number is shown, it is {verdict}.",
        title="Channel 0 of the last token, from embedding to logit",
    )  # fmt: skip
    d.text(250, 50, "our rows", size=12, bold=True)
    d.text(350, 50, "kernel", size=12, bold=True)
    largest = max(abs(value) for _, value, _ in steps)
    before = None
    for k, (name, value, kernel) in enumerate(steps):
        y = 60 + 27 * k
        box = d.box(20, y, 176, 20, name, fill="#e8f1f8" if not name.startswith("logit") else "#fbe3d2",
                    line=BLUE if not name.startswith("logit") else ORANGE, size=11, mono=True)  # fmt: skip
        if before is not None:
            d.arrow(before.bottom, box.top, width=1)
        before = box
        d.text(282, y + 14, _number(value), size=12, anchor="end", mono=True)
        d.text(382, y + 14, "—" if kernel is None else _number(kernel), size=12, anchor="end", mono=True,
               colour=GREY if kernel is None else INK)  # fmt: skip
        length = 150 * value / largest
        d.box(min(570, 570 + length), y + 3, max(1, abs(length)), 14, fill=BLUE if value >= 0 else ORANGE,
              line=BLUE if value >= 0 else ORANGE)  # fmt: skip
    d.line((570, 58), (570, 62 + 27 * len(steps)), colour=GREY, width=1)
    return d


def _number(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
