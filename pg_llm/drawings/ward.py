"""Drawings of notebook 14: where a model can be ill, and attention with and without its mask."""

from __future__ import annotations

from collections.abc import Sequence

from pg_llm.drawings.svg import BLUE, GREY, ORANGE, Drawing

PLACES = (
    ("data", "what it is asked", "llm_dataset"),
    ("graph", "what it computes", "llm_graph"),
    ("initial weights", "where it begins", "llm_param, step 0"),
    ("update", "how far it steps", "chart"),
)
TRACES = (
    ("loss", "llm_train_log"),
    ("attention", "llm_attention_map"),
    ("activations", "llm_tensor_rt"),
    ("gradients", "llm_gradient"),
)


def places() -> Drawing:
    """Where an illness can be, and where its symptoms appear, each with the table that shows it."""
    said = "; ".join(f"{name}, {what}, in {table}" for name, what, table in PLACES)
    shown = "; ".join(f"{name} in {table}" for name, table in TRACES)
    d = Drawing(
        720, 240, f"Causes and symptoms. Causes: {said}. Each acts on the training. Symptoms: {shown}.",
        "Four places for a cause, four for a symptom",
    )  # fmt: skip
    train = d.box(300, 108, 120, 44, "training", fill="#eef0f2", line=GREY)
    for i, (name, what, table) in enumerate(PLACES):
        box = d.box(
            16, 44 + 48 * i, 210, 40, f"{name}: {what}\n{table}", fill="#f8dfcf", line=ORANGE, size=12
        )
        d.arrow(box.right, train.left, colour=GREY)
    for i, (name, table) in enumerate(TRACES):
        box = d.box(494, 44 + 48 * i, 210, 40, f"{name}\n{table}", fill="#e8f1f8", line=BLUE, size=12)
        d.arrow(train.right, box.left, colour=GREY)
    return d


def triangles(maps: dict[str, Sequence], tokens: Sequence[str], limit: float = 1) -> Drawing:
    """Attention of heads beside each other: a row for each query, a column for each key.

    maps: {title: matrix (T,T)}; None where a pair was not computed. tokens: T texts.
    """
    cell, n = 27, len(tokens)
    span = n * cell + 70
    largest = {}
    for title, rows in maps.items():
        late = [(row[j] or 0, i, j) for i, row in enumerate(rows) for j in range(i + 1, n)]
        weight, i, j = max(late)
        largest[title] = (
            f"{title}: the largest weight above the diagonal is {weight:.2f}, from position {i} to {j}"
            if weight else f"{title}: nothing above the diagonal"
        )  # fmt: skip
    d = Drawing(
        span * len(maps) + 16, n * cell + 104,
        f"Attention over the letters {' '.join(tokens)}, queries down and keys across. "
        f"{'; '.join(largest.values())}.",
        "Who attends to whom",
    )  # fmt: skip
    for k, (title, rows) in enumerate(maps.items()):
        d.matrix(64 + k * span, 74, rows, cell=cell, height=cell, rows=tokens, columns=tokens, title=title,
                 limit=limit, numbers=False)  # fmt: skip
        d.text(64 + k * span + n * cell / 2, 92 + n * cell, "key (attended to)", size=11, colour=GREY)
        d.text(64 + k * span - 34, 74 + n * cell / 2, "query", size=11, colour=GREY, turn=-90)
    return d
