"""Drawings of what goes on inside a model: a circuit, patching, the logit lens, text coloured by surprise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing, shade

SOFT, SAND, DIM = "#e8f1f8", "#fbe3d2", "#4a5560"
LETTER = 7.9  # pixels that a letter of 13 pixels takes in the monospaced font


def circuit(
    first: str,
    second: str,
    *,
    previous: tuple[str, float],
    induction: tuple[str, float],
    probability: float,
) -> Drawing:
    """The induction circuit on the tokens first, second, …, first: two heads and the streams between them.

    previous, induction: name and attention weight of the two heads; probability: of `second`, at the end.
    """
    (early, w1), (late, w2) = previous, induction
    d = Drawing(
        820, 372,
        f"The induction circuit. Three vertical residual streams: “{first}”, “{second}” and, later, "
        f"“{first}” again. In an early layer the previous-token head {early} at “{second}” attends to "
        f"“{first}” with weight {w1:.2f} and writes “after{first}” into the stream of “{second}”. In a later "
        f"layer the induction head {late} at the second “{first}” asks what came after “{first}”; that key "
        f"is found at "
        f"“{second}”, weight {w2:.2f}. Its value, “{second}”, is added to the last stream, and the model "
        f"predicts “{second}” with probability {probability:.2f}.",
        title="The induction circuit: one head leaves a note, another one reads it",
    )  # fmt: skip
    xs, top, bottom = (120, 330, 620), 66, 306
    for x, word in zip(xs, (first, second, first), strict=True):
        d.line((x, bottom), (x, top), colour=GREY, width=6)
        d.box(x - 52, bottom, 104, 28, word, fill="#ffffff", line=GREY, mono=True)
    d.text(xs[2] - 148, bottom + 20, "…", size=20)
    below = "residual streams, upwards from layer to layer"
    d.text(16, bottom + 52, below, size=12, colour=DIM, anchor="start")
    # The first head moves who was before.
    d.arrow((xs[0] + 4, 262), (xs[1] - 46, 238), colour=BLUE, width=1 + 4 * w1)
    d.box(xs[1] - 44, 222, 88, 30, f"head {early}", fill=SOFT)
    d.text((xs[0] + xs[1]) / 2 - 16, 286, f"weight {w1:.2f}", size=12, colour=BLUE)
    d.box(xs[1] - 74, 180, 148, 24, f"after{first}", fill=SOFT, size=12, mono=True)
    d.text(xs[1] - 82, 197, "the note →", size=12, colour=BLUE, anchor="end")
    # The second head looks for the note.
    d.box(xs[2] - 46, 122, 92, 30, f"head {late}", fill=SAND, line=ORANGE)
    d.text(xs[2] + 54, 134, "query: who", size=12, colour=ORANGE, anchor="start")
    d.text(xs[2] + 54, 149, f"came after{first}?", size=12, colour=ORANGE, anchor="start")
    d.arrow((xs[1] + 76, 184), (xs[2] - 48, 142), colour=ORANGE, width=1 + 4 * w2)
    d.text(xs[2] - 12, 198, f"key found, weight {w2:.2f}", size=12, colour=ORANGE, anchor="end")
    d.arrow((xs[1] + 4, 112), (xs[2] - 48, 128), colour=ORANGE, dashed=True)
    d.text((xs[1] + xs[2]) / 2 - 6, 106, f"value:{second}", size=12, colour=ORANGE)
    d.arrow((xs[2], 80), (xs[2], 60), colour=INK)
    d.text(xs[2], 52, f"{second.strip()}  {probability:.2f}", size=14, bold=True)
    return d


def patching(
    base: Sequence[str], donor: Sequence[str], nodes: Sequence[str], node: str, place: int
) -> Drawing:
    """Two runs as grids, a stream for each token, a row for each node; one cell is carried across.

    base, donor: the tokens of both prompts, equally many; node, place: which cell is carried.
    """
    wide, high = 74, 30
    left = 96
    T = len(base)
    d = Drawing(
        left + T * wide + 150, 2 * (len(nodes) * high) + 176,
        f"Activation patching. Above, the donor's run, below, the run of the base prompt: a column for each "
        f"token, a row for each of {', '.join(nodes)}. The vector of {node} at position {place}, "
        f"“{donor[place]}” of the donor, replaces the vector in the same cell of the base run; everything "
        f"above and to the right of it is computed again.",
        title="Patching: one vector of one run in the place of another's",
    )  # fmt: skip
    rows = list(reversed(nodes))
    at = rows.index(node)

    def grid(y: float, tokens: Sequence[str], name: str, colour: str, changed: bool) -> tuple[float, float]:
        d.text(left - 14, y - 10, name, size=13, bold=True, anchor="end", colour=colour)
        for i, row in enumerate(rows):
            d.text(left - 10, y + i * high + 19, row, size=12, mono=True, anchor="end")
            for j in range(T):
                again = changed and i < at and j >= place
                here = (i, j) == (at, place)
                fill = shade(0.75, ORANGE) if here else "#fbe3d2" if again else "#e8f1f8"
                fill = fill if here or changed else "#fdf3ea"
                d.box(left + j * wide + 3, y + i * high + 3, wide - 6, high - 6, fill=fill,
                      line=ORANGE if here else GREY)  # fmt: skip
        for j, token in enumerate(tokens):
            same = base[j] == donor[j]
            d.text(left + (j + 0.5) * wide, y + len(rows) * high + 16, token.strip(), size=12, mono=True,
                   colour=INK if same else colour, bold=not same)  # fmt: skip
        return left + (place + 0.5) * wide, y + (at + 0.5) * high

    above = grid(64, donor, "donor", ORANGE, False)
    low = 64 + len(rows) * high + 62
    below = grid(low, base, "base", BLUE, True)
    d.arrow((above[0] + 12, above[1] + 6), (below[0] + 12, below[1] - 8), colour=ORANGE, width=2.4, bend=-46)
    right = left + T * wide + 12
    d.text(right, above[1] - 2, "take this vector", size=12, colour=ORANGE, anchor="start")
    d.text(right, low + 20, "computed again", size=12, colour=ORANGE, anchor="start")
    d.text(right, low + len(rows) * high - 10, "as before", size=12, colour=BLUE, anchor="start")
    return d


def grid(values: Mapping[str, Sequence[float]], tokens: Sequence[str], title: str, label: str) -> Drawing:
    """A heat map with a row for each node, the last one on top, and a column for each token.

    values: {node: one number from 0 to 1 for each token}; label: what they are.
    """
    cell, high, left, top = 26, 26, 92, 46
    rows = [*values][::-1]
    best = max(((v, node, t) for node in values for t, v in enumerate(values[node])), default=(0, "", 0))
    large = [f"{node} at position {t} (“{tokens[t]}”) {v:.2f}" for node in values
             for t, v in enumerate(values[node]) if v >= 0.05]  # fmt: skip
    d = Drawing(
        left + cell * len(tokens) + 160, top + high * len(rows) + 92,
        f"{title}. A heat map of {label}, a row for each of {', '.join(values)}, a column for each token. "
        f"{'At least 0.05: ' + '; '.join(large) if large else f'The largest is {best[0]:.2f}'}.",
        title=title,
    )  # fmt: skip
    for i, node in enumerate(rows):
        d.text(left - 8, top + (i + 0.5) * high + 4, node, size=12, mono=True, anchor="end")
        for t, value in enumerate(values[node]):
            x, y = left + t * cell + 1, top + i * high + 1
            d.box(x, y, cell - 2, high - 2, fill=shade(value), line="#b8c0c8")
            if value >= 0.05:
                dark = value > 0.5
                d.text(left + (t + 0.5) * cell, top + (i + 0.5) * high + 4, f"{value:.1f}", size=10,
                       colour="#ffffff" if dark else INK)  # fmt: skip
    for t, token in enumerate(tokens):
        d.text(left + (t + 0.5) * cell + 4, top + high * len(rows) + 10, token.strip(), size=11, mono=True,
               turn=-60, anchor="end")  # fmt: skip
    d.scale(left + cell * len(tokens) + 22, top + 6, label)
    return d


def lens(rows: Sequence[tuple[str, str, float]], token: str) -> Drawing:
    """The logit lens on one token; rows: (node, most probable next token, its probability), in order."""
    high, top = 46, 56
    spoken = "; ".join(f"after {node} “{word}” {p:.2f}" for node, word, p in rows)
    d = Drawing(
        700, top + high * len(rows) + 66,
        f"The logit lens. The residual stream of “{token}” goes upwards through "
        f"{', '.join(r[0] for r in rows)}. After each of them the vector is also sent straight to ln_f and "
        f"wte, as if the model ended there. "
        f"The most probable next token: {spoken}.",
        title="The logit lens: read the stream as if the model ended here",
    )  # fmt: skip
    low = top + high * len(rows)
    d.line((90, low + 16), (90, top - 4), colour=GREY, width=6)
    d.box(46, low + 14, 88, 28, token, fill="#ffffff", line=GREY, mono=True)
    for k, (node, word, p) in enumerate(rows):
        y = low - (k + 0.5) * high
        d.box(58, y - 13, 64, 26, node, fill=SOFT, mono=True)
        box = d.box(214, y - 13, 116, 26, "ln_f, wteᵀ", fill=SAND, line=ORANGE, size=12)
        d.arrow((122, y), box.left, colour=ORANGE, dashed=k < len(rows) - 1)
        d.arrow(box.right, (372, y), colour=ORANGE, dashed=k < len(rows) - 1)
        d.text(470, y + 4, word, mono=True, anchor="end")
        d.box(482, y - 9, max(2, 150 * p), 18, fill=shade(0.7), line=BLUE)
        d.text(490 + max(2, 150 * p), y + 4, f"{p:.2f}", size=12, anchor="start")
    d.text(272, low + 34, "as if the model ended here", size=12, colour=ORANGE)
    return d


def surprise(lines: Mapping[str, Sequence[tuple[str, float]]], title: str, most: float = 3.0) -> Drawing:
    """Texts whose tokens are coloured by a number: orange above 0, blue below, white at 0.

    lines: {name of a text: (token, nats)}; most: the nats of the full colour.
    """
    width, high = 800, 24
    placed: list[tuple[float, float, str, float]] = []
    names: list[tuple[float, str]] = []
    y = 86.0
    for name, tokens in lines.items():
        names.append((y, name))
        x, y = 16.0, y + 12
        for token, nats in tokens:
            wide = LETTER * max(1, len(token)) + 3
            if x + wide > width - 16:
                x, y = 16.0, y + high
            placed.append((x, y, token, nats))
            x += wide
        y += high + 32
    told = []
    for name, tokens in lines.items():
        far = [f"“{token.strip()}” {nats:+.1f}" for token, nats in tokens if abs(nats) >= 1]
        told.append(f"{name}: {', '.join(far) or 'no token differs by 1 nat or more'}")
    d = Drawing(width, y - 4, f"{title}. {'. '.join(told)}.", title=title)
    for k, step in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
        label = f"{step * most:+.1f}" if step else "0"
        d.box(200 + 66 * k, 38, 64, 18, label, fill=shade(-0.8 * step), size=11, line="#b8c0c8")
    d.text(190, 51, "less surprised than the truth", size=11, anchor="end", colour=DIM)
    d.text(540, 51, "more surprised, in nats", size=11, anchor="start", colour=DIM)
    for at, name in names:
        d.text(16, at, name, bold=True, anchor="start")
    for x, at, token, nats in placed:
        share = max(-1.0, min(1.0, nats / most))
        wide = LETTER * max(1, len(token)) + 2
        if abs(share) > 0.02:
            d.box(x, at, wide, 19, fill=shade(-0.8 * share), line=shade(-0.8 * share))
        d.text(x + 1, at + 14, token, mono=True, anchor="start", colour=INK)
    return d
