"""Drawings of attention: queries, keys and values, the mask, joins, heads and the induction circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing, shade

# the column in which two tables of `joins` meet
MEET = {"query": "c", "key": "c", "weight": "j", "value": "j"}


def vectors(frame: pd.DataFrame, title: str = "Each token has three vectors") -> Drawing:
    """Tokens with their query, key and value: columns token, query, key, value, a row for each token.

    Example: vectors(pd.DataFrame({"token": ["a"], "query": [[1, 0]], "key": [[0, 1]], "value": [[2, 2]]}))
    """
    parts = {name: [[float(v) for v in row] for row in frame[name]] for name in ("query", "key", "value")}
    said = [
        f"{name.capitalize()}: "
        + ", ".join(f"{t.strip()} ({_list(row)})" for t, row in zip(frame["token"], rows, strict=True))
        for name, rows in parts.items()
    ]
    wide = len(parts["query"][0])
    each = 46 * wide + 90
    d = Drawing(
        130 + 3 * each, 118 + 34 * len(frame),
        f"{len(frame)} tokens, each with a query, a key and a value of {wide} numbers. "
        + ". ".join(said) + ".",
        title=title,
    )  # fmt: skip
    asks = {"query": "what do I look for?", "key": "what do I offer?", "value": "what do I pass on?"}
    for k, (name, rows) in enumerate(parts.items()):
        labels = [f"{i}  {token.strip()}" for i, token in enumerate(frame["token"])] if k == 0 else ()
        x = 112 + k * each
        columns = [f"c={c}" for c in range(wide)]
        d.matrix(x, 78, rows, cell=46, height=34, columns=columns, rows=labels, title=name, limit=4,
                 digits=_digits(rows))  # fmt: skip
        d.text(x + 23 * wide, 78 + 34 * len(frame) + 22, asks[name], size=12, colour="#4a5560")
    return d


def on_paper(frame: pd.DataFrame, i: int, masked: bool = True) -> Drawing:
    """Attention of token i worked out with its numbers: scores, weights, mixture. Columns as for vectors."""
    tokens = [token.strip() for token in frame["token"]]
    q, k, v = (np.array([[*row] for row in frame[name]], dtype=float) for name in ("query", "key", "value"))
    seen = i + 1 if masked else len(tokens)
    hs = q.shape[1]
    score = k[:seen] @ q[i] / np.sqrt(hs)
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    out = weight @ v[:seen]
    d = Drawing(
        776, 116 + 56 * seen,
        f"Attention of token {i}, {tokens[i]}, by hand. "
        + " ".join(f"Against {tokens[j]}: dot product {_short(k[j] @ q[i])}, divided by the root of {hs} "
                   f"{score[j]:.2f}, weight {weight[j]:.2f}." for j in range(seen))
        + f" The mixture of the values is ({', '.join(f'{n:.2f}' for n in out)}).",
        title=f"Token {i}, {tokens[i]}, on paper",
    )  # fmt: skip
    heads_of_columns = {60: "its query", 250: "dot product", 372: f"÷ √{hs}", 452: "softmax", 560: "value"}
    for x, name in heads_of_columns.items():
        d.text(x, 52, name, size=12, bold=True)
    d.matrix(24, 62, [q[i]], cell=36, height=30, digits=_digits([q[i]]), limit=4)
    for j in range(seen):
        y = 108 + 56 * j
        key = d.matrix(24, y, [k[j]], cell=36, height=30, digits=_digits([k[j]]), limit=4)
        d.text(24, y + 44, f"key of {j}, {tokens[j]}", size=11, anchor="start", colour="#4a5560")
        sums = " + ".join(f"{_short(a)}·{_short(b)}" for a, b in zip(q[i], k[j], strict=True))
        d.arrow(key.right, (186, y + 15), colour=GREY)
        d.text(250, y + 20, f"{sums} = {_short(k[j] @ q[i])}")
        d.text(372, y + 20, f"{score[j]:.2f}")
        w = d.box(424, y, 58, 30, f"{weight[j]:.2f}", fill=shade(0.85 * weight[j]))
        value = d.matrix(524, y, [v[j]], cell=36, height=30, digits=_digits([v[j]]), limit=4)
        d.text(503, y + 20, "×", size=15)
        d.arrow(w.right, (494, y + 15), colour=GREY)
        d.arrow(value.right, (648, 100 + 28 * seen), colour=GREY)
    result = d.matrix(652, 85 + 28 * seen, [out], cell=46, height=30, limit=4)
    d.text(result.top[0], result.y - 10, "sum: the mixture", size=12, bold=True)
    return d


def mask(frame: pd.DataFrame, tokens: Sequence[str]) -> Drawing:
    """All scores beside those that the mask leaves: columns i, j, score; rows are queries, columns keys."""
    n = len(tokens)
    rows = zip(*(_column(frame, name) for name in ("i", "j", "score")), strict=True)
    known = {(int(i), int(j)): float(score) for i, j, score in rows}
    full = [[known.get((i, j)) for j in range(n)] for i in range(n)]
    left = [[full[i][j] if j <= i else None for j in range(n)] for i in range(n)]
    names = [token.strip() for token in tokens]
    side = 52 * n
    d = Drawing(
        2 * side + 270, 128 + 36 * n,
        "Two tables of scores, a row for each query and a column for each key. On the left all "
        f"{n * n} pairs; on the right the mask leaves the {n * (n + 1) // 2} pairs whose key is not later "
        "than the query, a triangle; the others are hatched.",
        title="The mask is WHERE j <= i",
    )  # fmt: skip
    a = d.matrix(92, 82, full, cell=52, height=36, rows=names, columns=names, title="all pairs")
    b = d.matrix(side + 240, 82, left, cell=52, height=36, rows=names, columns=names, title="after the mask")
    d.arrow((a.x + a.width + 14, a.right[1]), (b.x - 62, b.right[1]), "WHERE j <= i", width=2)
    for box in (a, b):
        d.text(box.bottom[0], box.bottom[1] + 26, "key j: attended to", size=12, colour="#4a5560")
    d.text(22, a.left[1], "query i: attends", size=12, colour="#4a5560", turn=-90)
    return d


def joins(tables: Mapping[str, pd.DataFrame]) -> Drawing:
    """Attention as two joins and a window: sample rows of query, key, score, weight, value and mixture."""
    d = Drawing(
        880, 330,
        "Attention as a plan of tables. query (i, c, q) and key (j, c, k) are joined where the channel c is "
        "the same and grouped by i and j into score. A window partitioned by i over the rows with j at most "
        "i turns score into weight. weight and value (j, c, v) are joined where the token j is the same and "
        "grouped by i and c into mixture.",
        title="Attention as joins of tables",
    )  # fmt: skip
    place = {"query": (20, 60), "key": (20, 200), "score": (250, 130), "weight": (470, 60),
             "value": (470, 200), "mixture": (724, 130)}  # fmt: skip
    box = {}
    for name, (x, y) in place.items():
        part = tables[name].head(2)
        rows = [[_short(v) for v in row] for row in part.itertuples(index=False)]
        columns = [str(column) for column in part.columns]
        rows.append(["…"] * len(columns))
        box[name] = d.matrix(x, y + 22, rows, cell=46, height=24, columns=columns, size=11)
        if name in MEET:
            left = x + 46 * columns.index(MEET[name])
            d.box(left, y, 46, 24 * len(rows) + 24, fill="none", line=ORANGE)
        d.text(x + 69, y - 10, name, bold=True)
    for pair, end in ((("query", "key"), "score"), (("weight", "value"), "mixture")):
        for start, bend in zip(pair, (-6, 6), strict=True):
            d.arrow(box[start].right, box[end].left, bend=bend, colour=ORANGE, width=2)
    d.arrow(box["score"].right, box["weight"].left, colour=BLUE, width=2)
    d.text(268, 272, "JOIN USING (c)\nGROUP BY i, j", size=11, mono=True, colour=ORANGE)
    d.text(752, 272, "JOIN USING (j)\nGROUP BY i, c", size=11, mono=True, colour=ORANGE)
    d.text(362, 70, "WHERE j <= i\nexp, and a window\nPARTITION BY i", size=11, mono=True, colour=BLUE)
    return d


def heads(channels: int, n_head: int, tokens: int) -> Drawing:
    """Several heads side by side: the channels of query, key and value cut into as many parts."""
    hs = channels // n_head
    colours = [BLUE, "#56B4E9", ORANGE, "#E69F00", "#009E73", "#CC79A7"]
    d = Drawing(
        760, 352,
        f"{tokens} tokens with {channels} channels are multiplied with c_attn and become {channels} channels "
        f"of queries, {channels} of keys and {channels} of values. Each is cut into {n_head} parts of {hs}: "
        f"a head gets one part of each and does attention by itself. The {n_head} results, {hs} channels "
        f"each, are set side by side and multiplied with c_proj, which gives {channels} channels again.",
        title=f"{n_head} heads side by side",
    )  # fmt: skip
    x = d.box(18, 140, 96, 90, f"input\n{tokens} × {channels}")
    d.arrow(x.right, (178, 185), "c_attn", width=2)
    part = 120 / n_head
    for k, name in enumerate(("query", "key", "value")):
        for h in range(n_head):
            d.box(180 + part * h, 70 + 90 * k, part, 50, fill=colours[h % 6], line="#ffffff")
        d.text(240, 62 + 90 * k, f"{name}  {tokens} × {channels}", size=12)
    space = 260 / n_head
    for h in range(n_head):
        y = 60 + space * h
        head = d.box(390, y, 128, space - 14, f"head {h}\nscore, softmax, mix", fill=colours[h % 6], size=11)
        if h in (0, n_head - 1):
            for k in range(3):
                d.arrow((300, 95 + 90 * k), head.left, colour=GREY, width=1, dashed=h > 0)
        d.box(572, 95 + 180 / n_head * h, 44, 180 / n_head, str(hs), fill=colours[h % 6], line="#ffffff")
        d.arrow(head.right, (570, 95 + 180 / n_head * (h + 0.5)), colour=GREY, width=1)
    d.text(594, 86, "side by side", size=12)
    out = d.box(664, 140, 84, 90, f"output\n{tokens} × {channels}")
    d.arrow((616, 185), out.left, width=2)
    d.text(640, 174, "c_proj", size=12)
    d.text(240, 336, f"each colour: one head's {hs} channels", size=12, colour="#4a5560")
    return d


def head_map(frame: pd.DataFrame, title: str = "") -> Drawing:
    """The map of one head with its tokens, from the rows of pg_llm.attention()."""
    table, tokens = _matrix(frame)
    n, cell = len(tokens), 15 if len(tokens) <= 40 else 7
    where = f"layer {frame['layer'].iloc[0]}, head {frame['head'].iloc[0]}"
    top = frame[frame["query"] > 0].sort_values("weight", ascending=False).head(3)
    columns = (_column(top, name) for name in ("query_token", "query", "key_token", "key", "weight"))
    pairs = "; ".join(
        f"{a.strip()} ({i}) to {b.strip()} ({j}) {weight:.2f}"
        for a, i, b, j, weight in zip(*columns, strict=True)
    )
    d = Drawing(
        cell * n + 118, cell * n + 172,
        f"Attention weights of {where}: a row for each query token, a column for each key token, {n} each, "
        f"only the lower triangle. The largest: {pairs}.",
        title=title or where,
    )  # fmt: skip
    x, y = 98, 110
    d.heat(x, y, table, cell=cell)
    if cell >= 12:
        for i, token in enumerate(tokens):
            d.text(x - 5, y + cell * (i + 0.5) + 3.5, token.strip(), size=10, anchor="end")
            d.text(x + cell * (i + 0.5) + 3.5, y - 5, token.strip(), size=10, anchor="start", turn=-90)
    d.text(x + cell * n / 2, 50, "key: attended to", size=12, colour="#4a5560")
    d.text(20, y + cell * n / 2, "query: attends", size=12, colour="#4a5560", turn=-90)
    d.scale(x + 20, y + cell * n + 18, "attention weight")
    return d


def head_grid(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Small maps of all heads of a run, a row for each layer, from the rows of pg_llm.attention()."""
    layers, heads_ = (sorted(frame[name].unique()) for name in ("layer", "head"))
    tokens = _matrix(frame[(frame["layer"] == layers[0]) & (frame["head"] == heads_[0])])[1]
    cell = max(2.0, round(120 / len(tokens), 1))
    side = cell * len(tokens)
    d = Drawing(
        (side + 26) * len(heads_) + 76, (side + 34) * len(layers) + 112,
        f"Maps of {len(layers)} layers with {len(heads_)} heads each over the {len(tokens)} tokens from "
        f"{tokens[0].strip()} to {tokens[-1].strip()}: rows are queries, columns keys, dark is a weight near "
        "1. " + _strongest(frame),
        title=title or "A map for each head",
    )  # fmt: skip
    for a, layer in enumerate(layers):
        for b, head in enumerate(heads_):
            part = frame[(frame["layer"] == layer) & (frame["head"] == head)]
            x, y = 64 + b * (side + 26), 58 + a * (side + 34)
            d.heat(x, y, _matrix(part)[0], cell=cell)
            d.text(x, y - 5, f"layer {layer}, head {head}", size=11, anchor="start")
            if b == 0:
                d.text(x - 5, y + 8, tokens[0].strip(), size=9, anchor="end")
                d.text(x - 5, y + side, tokens[-1].strip(), size=9, anchor="end")
            if a == len(layers) - 1:
                d.text(x, y + side + 12, tokens[0].strip(), size=9, anchor="start")
                d.text(x + side, y + side + 12, tokens[-1].strip(), size=9, anchor="end")
    bottom = 58 + len(layers) * (side + 34)
    d.text(64 + (side + 26) * len(heads_) / 2, bottom + 2, "key: attended to", size=12, colour="#4a5560")
    d.text(18, 40 + (side + 34) * len(layers) / 2, "query: attends", size=12, colour="#4a5560", turn=-90)
    d.scale(92, bottom + 14, "attention weight")
    return d


def induction(
    tokens: Sequence[str],
    previous: float,
    copying: float,
    names: Sequence[str] = ("layer 1, head 2", "layer 2, head 3"),
) -> Drawing:
    """The induction circuit over four tokens: one, its successor, later the same one again, and the guess.

    tokens: first, second, first again, the predicted token. previous: weight of the previous-token head from
    second to first; copying: weight of the induction head from the repetition to second.
    """
    first, second, again, guess = (token.strip() for token in tokens)
    d = Drawing(
        780, 300,
        f"The induction circuit. {names[0]}, the previous-token head, attends from {second} to {first} "
        f"before it (weight {previous:.2f}), so that {second} carries the note: before me came {first}. "
        f"Later {again} stands for the second time: {names[1]}, the induction head, looks for a token with "
        f"the note {again}, attends to {second} (weight {copying:.2f}) and copies it: the guess is {guess}.",
        title="The induction circuit: two heads, one rule",
    )  # fmt: skip
    y = 186
    a, b = d.box(60, y, 80, 36, first), d.box(170, y, 80, 36, second)
    c = d.box(470, y, 80, 36, again)
    e = d.box(650, y, 80, 36, guess, fill="#fdeee0", line=ORANGE, dashed=True)
    d.text(360, y + 22, "…   later   …", colour="#4a5560")
    note = d.box(140, 122, 140, 30, f"before me: {first}", fill="#ffffff", line=GREY, size=12)
    wish = d.box(400, 122, 220, 30, f"who has “before me: {again}”?", fill="#ffffff", line=GREY, size=12)
    d.line(b.top, note.bottom, colour=GREY, dashed=True)
    d.line(c.top, wish.bottom, colour=GREY, dashed=True)
    d.arrow(b.bottom, a.bottom, bend=24, colour=BLUE, width=2)
    text = f"1  {names[0]}: previous-token head,\nweight {previous:.2f}, writes the note"
    d.text(155, y + 82, text, size=12, colour=BLUE)
    d.arrow(wish.top, note.top, bend=-34, colour=ORANGE, width=2)
    d.text(360, 68, f"2  {names[1]}: induction head, weight {copying:.2f}", size=12, colour=ORANGE)
    d.arrow(c.right, e.left, colour=ORANGE, width=2)
    d.text(610, y + 62, "3  copies the token it found:\nthe guess", size=12, colour=INK)
    return d


def _digits(rows) -> int:
    """Decimals that the numbers need: none for whole ones."""
    return 0 if all(float(v) == round(float(v)) for row in rows for v in row) else 2


def _list(values) -> str:
    """Numbers with commas between them."""
    return ", ".join(map(_short, values))


def _short(value) -> str:
    """A number as written by hand: without needless decimals, with a real minus sign."""
    if isinstance(value, str):
        return value
    return f"{float(value):.2f}".rstrip("0").rstrip(".").replace("-", "−")


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    """A column as Python's own values."""
    return frame[name].tolist()


def _matrix(frame: pd.DataFrame) -> tuple[list[list[float | None]], list[str]]:
    """Weights as a square table, None above the diagonal, and the tokens in their order."""
    tokens = frame.drop_duplicates("query").sort_values("query")["query_token"].tolist()
    table: list[list[float | None]] = [[None] * len(tokens) for _ in tokens]
    columns = (_column(frame, name) for name in ("query", "key", "weight"))
    for query, key, weight in zip(*columns, strict=True):
        table[query][key] = float(weight)
    return table, tokens


def _strongest(frame: pd.DataFrame) -> str:
    """The mean of each head's largest weight in a row, in words: the sharpest and the softest head."""
    best = frame.groupby(["layer", "head", "query"])["weight"].max().groupby(["layer", "head"]).mean()
    (sharp, most), *_, (soft, least) = _items(best)
    return (
        "The sharpest is layer {}, head {}".format(*sharp)
        + f" (largest weight of a row {most:.2f} on average), "
        + "the softest layer {}, head {}".format(*soft)
        + f" ({least:.2f})."
    )


def _items(best: Any) -> list[tuple[tuple[int, int], float]]:
    """The entries of a series with (layer, head) as its index, largest first."""
    return list(best.sort_values(ascending=False).to_dict().items())
