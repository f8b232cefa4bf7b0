"""Drawings of the forward pass and of sampling: shapes, softmax, the dials, the loop, the KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Box, Drawing, shade

SOFT, SAND, DIM = "#e8f1f8", "#fbe3d2", "#4a5560"


def pipeline(shapes: Mapping[str, Sequence[int]]) -> Drawing:
    """The forward pass from token ids to logits; shapes: {node: shape} with embd, h.0 …, ln_f, logits."""
    layers = sorted((name for name in shapes if name.startswith("h.")), key=lambda name: int(name[2:]))
    t, c = shapes["embd"]
    stages = [("wte + wpe", "embedding", shapes["embd"])]
    stages += [(name, "attention + MLP", shapes[name]) for name in layers]
    stages += [("ln_f", "layer norm", shapes["ln_f"]), ("× wteᵀ", "unembedding", shapes["logits"])]
    width, gap = 104, 22
    spoken = "; ".join(f"after {name} {_shape(shape)}" for name, _, shape in stages)
    d = Drawing(
        84 + len(stages) * (width + gap), 232,
        f"The forward pass. {t} token ids enter. Shapes: {spoken}. The residual stream keeps the shape "
        f"{_shape((t, c))} through all {len(layers)} blocks; only the last product changes it.",
        title="The forward pass, with the shape of what leaves each step",
    )  # fmt: skip
    y = 76
    before = d.box(14, y, 52, 60, "ids", fill="#ffffff", line=GREY)
    d.text(40, y + 80, f"({t})", size=12, mono=True)
    for k, (name, says, shape) in enumerate(stages):
        x = 88 + k * (width + gap)
        ends = k in (0, len(stages) - 1)
        box = d.box(x, y, width, 60, fill=SAND if ends else SOFT, line=ORANGE if ends else BLUE)
        d.text(x + width / 2, y + 26, name, size=13, mono=True)
        d.text(x + width / 2, y + 45, says, size=11, colour=DIM)
        d.arrow(before.right, box.left)
        d.text(x + width / 2, y + 80, _shape(shape), size=12, mono=True)
        before = box
    left, right = 88, 88 + (len(layers) + 1) * (width + gap) - gap
    d.bracket((right, y + 92), (left, y + 92), "", colour=BLUE)
    stream = f"residual stream: {t} tokens × {c} channels, changed by each block, never reshaped"
    d.text((left + right) / 2, y + 122, stream, size=12, colour=BLUE)
    end = 88 + (len(stages) - 1) * (width + gap)
    d.line((end + 20, 66), (end + 20, 44), colour=ORANGE, dashed=True)
    d.line((end + 20, 44), (130, 44), colour=ORANGE, dashed=True)
    d.line((130, 44), (130, 70), colour=ORANGE, dashed=True)
    d.text((end + 130) / 2, 58, "the same table wte, used twice", size=12, colour=ORANGE)
    return d


def probabilities(rows: Sequence[tuple[str, float, float, float]]) -> Drawing:
    """From logits to probabilities: rows (token, logit, e to the logit, probability), best first."""
    spoken = "; ".join(f"“{token}” logit {z:.2f}, probability {p:.3f}" for token, z, _, p in rows)
    d = Drawing(
        760, 92 + 28 * len(rows),
        f"Three columns of bars: logits, e to the logits, and probabilities after division by the sum. "
        f"{spoken}.",
        title="Softmax in two steps",
    )  # fmt: skip
    columns = [
        ("logit", [z for _, z, _, _ in rows], BLUE, "{:.2f}"),
        ("e to the logit", [e for _, _, e, _ in rows], BLUE, "{:,.0f}"),
        ("divided by the sum", [p for _, _, _, p in rows], ORANGE, "{:.1%}"),
    ]
    for k, (title, values, colour, form) in enumerate(columns):
        left = 130 + 215 * k
        d.text(left, 56, title, size=12, bold=True, anchor="start")
        most = max(map(abs, values))
        for n, value in enumerate(values):
            y = 68 + 28 * n
            length = max(1.0, 120 * abs(value) / most)
            d.box(left, y, length, 18, fill=colour, line=colour)
            d.text(left + length + 6, y + 14, form.format(value), size=11, anchor="start")
    for n, row in enumerate(rows):
        d.text(118, 68 + 28 * n + 14, _token(row[0]), size=12, mono=True, anchor="end")
    return d


def temperature(rows: Sequence[tuple[float, str, float]]) -> Drawing:
    """One distribution at several temperatures: rows (temperature, token, probability), best first."""
    heats = sorted({heat for heat, _, _ in rows})
    tokens = list(dict.fromkeys(token for _, token, _ in rows))
    most = max(p for _, _, p in rows)
    spoken = "; ".join(
        f"temperature {heat:g}: " + ", ".join(f"“{t}” {p:.3f}" for h, t, p in rows if h == heat)
        for heat in heats
    )
    wide = 210
    d = Drawing(
        112 + wide * len(heats), 92 + 24 * len(tokens),
        f"The probabilities of the same tokens, a column of bars for each temperature. {spoken}.",
        title="One distribution at three temperatures" if len(heats) == 3 else "One distribution, heated",
    )  # fmt: skip
    for n, token in enumerate(tokens):
        d.text(98, 68 + 24 * n + 13, _token(token), size=12, mono=True, anchor="end")
    for k, heat in enumerate(heats):
        left = 108 + wide * k
        d.text(left, 56, f"temperature {heat:g}", size=12, bold=True, anchor="start")
        for h, token, p in rows:
            if h == heat:
                y = 68 + 24 * tokens.index(token)
                length = max(1.0, (wide - 70) * p / most)
                d.box(left, y, length, 16, fill=BLUE, line=BLUE)
                d.text(left + length + 5, y + 12, f"{p:.1%}", size=11, anchor="start")
    return d


def cut(rows: Sequence[tuple[str, float]], top_k: int, top_p: float) -> Drawing:
    """Sorted bars with the cuts of top-k and top-p: rows (token, probability), best first."""
    upto, kept_p = 0.0, 0
    totals = []
    for _, p in rows:
        if upto < top_p:
            kept_p += 1
        upto += p
        totals.append(upto)
    spoken = ", ".join(f"“{token}” {p:.3f}" for token, p in rows)
    d = Drawing(
        120 + 44 * len(rows), 360,
        f"Bars of the most probable tokens: {spoken}. Top-k {top_k} keeps the first {top_k}; top-p {top_p:g} "
        f"keeps the first {kept_p}, whose running total is the first to reach {top_p:g}.",
        title=f"Where top-k {top_k} and top-p {top_p:g} cut",
    )  # fmt: skip
    most = max(p for _, p in rows)
    base, tall, left = 250, 150, 76
    d.text(left - 10, base - tall + 6, f"{most:.0%}", size=11, anchor="end")
    d.text(left - 10, base + 4, "0%", size=11, anchor="end")
    d.text(left - 10, 64, "total", size=11, anchor="end")
    for n, (token, p) in enumerate(rows):
        x = left + 44 * n
        height = max(1.0, tall * p / most)
        fill = BLUE if n < min(top_k, kept_p) else "#9cc4de" if n < max(top_k, kept_p) else "#d9dde1"
        d.box(x, base - height, 34, height, fill=fill, line=fill)
        d.text(x + 17, 64, f"{totals[n]:.0%}", size=11, colour=ORANGE if totals[n] >= top_p else DIM)
        d.text(x + 20, base + 14, _token(token), size=12, mono=True, anchor="end", turn=-50)
    for count, label, colour, y in (
        (top_k, f"top-k {top_k}", INK, 84),
        (kept_p, f"top-p {top_p:g}", ORANGE, 106),
    ):
        x = left + 44 * count - 5
        d.line((x, y - 8), (x, base + 6), colour=colour, width=2, dashed=True)
        d.text(x + 6, y, label, size=12, bold=True, colour=colour, anchor="start")
    legend = "dark: kept by both    light: kept by one of them    grey: never drawn"
    d.text(left, 348, legend, size=12, anchor="start", colour=DIM)
    return d


def loop() -> Drawing:
    """The sampling loop: tokens, forward pass, last row of logits, dials, dice, and back."""
    d = Drawing(
        790, 210,
        "The sampling loop. The tokens so far go through the forward pass; the last row of logits goes "
        "through temperature, top-k and top-p and becomes a distribution; a random number chooses one token; "
        "it is appended to the tokens, and the loop begins again.",
        title="The loop that makes a model write",
    )  # fmt: skip
    names = [("tokens so far", "ids (T)"), ("forward pass", "logits (T, V)"), ("last row", "logits (V)"),
             ("dials", "temperature,\ntop-k, top-p"), ("draw one", "by a random\nnumber")]  # fmt: skip
    boxes: list[Box] = []
    for k, (name, says) in enumerate(names):
        fill, line = (SAND, ORANGE) if k in (3, 4) else (SOFT, BLUE)
        box = d.box(18 + 156 * k, 56, 124, 70, fill=fill, line=line)
        d.text(box.x + 62, 78, name, size=13, bold=True)
        d.text(box.x + 62, 97, says, size=11, colour=DIM)
        if boxes:
            d.arrow(boxes[-1].right, box.left)
        boxes.append(box)
    d.line(boxes[-1].bottom, (boxes[-1].bottom[0], 168), colour=ORANGE, width=2)
    d.line((boxes[-1].bottom[0], 168), (boxes[0].bottom[0], 168), colour=ORANGE, width=2)
    d.arrow((boxes[0].bottom[0], 168), boxes[0].bottom, colour=ORANGE, width=2)
    d.text(395, 188, "append the token, and again", size=12, colour=ORANGE)
    return d


def cache(prompt: int, new: int) -> Drawing:
    """Which tokens each pass computes, without and with a KV cache: a row for each pass."""
    total = prompt + new - 1
    without = sum(prompt + step for step in range(new))
    d = Drawing(
        96 + 2 * (total * 36 + 60), 118 + 30 * new,
        f"Two grids, a row for each of {new} passes, a column for each of {total} tokens. Without a cache "
        f"every pass computes all tokens so far: {without} cells. With a cache the first pass computes the "
        f"{prompt} tokens of the prompt and each later one only the newest: {total} cells; the keys and "
        "values of the others are read.",
        title=f"A prompt of {prompt} tokens, {new} new ones: what each pass computes",
    )  # fmt: skip
    for side, title in enumerate(
        (f"without a cache: {without} tokens computed", f"with a cache: {total} tokens computed")
    ):
        left = 86 + side * (total * 36 + 60)
        d.text(left, 56, title, size=12, bold=True, anchor="start")
        for step in range(new):
            y = 78 + 30 * step
            if side == 0:
                d.text(left - 8, y + 17, f"pass {step}", size=12, anchor="end")
            for t in range(prompt + step):
                fresh = side == 0 or step == 0 or t == prompt + step - 1
                d.box(left + 36 * t, y, 32, 24, "" if fresh else "k, v", fill=BLUE if fresh else shade(0.15),
                      line=BLUE, size=11, dashed=not fresh)  # fmt: skip
    d.text(86, 104 + 30 * new, "filled: computed in this pass      k, v: read from the cache", size=12,
           anchor="start", colour=DIM)  # fmt: skip
    return d


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _token(token: str) -> str:
    return token.replace(" ", "␣").replace("\n", "↵")
