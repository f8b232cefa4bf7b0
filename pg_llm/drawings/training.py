"""Drawings of training: a batch and its targets, the loop, the learning rate, commits, names by letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing, shade

DIM, SOFT, SAND = "#4a5560", "#e8f1f8", "#fbe3d2"


def batch(tokens: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Drawing:
    """A batch as two matrices: tokens (B,T) and targets (B,T), one step ahead; '' is padding."""
    wide = max(map(len, tokens))
    cell, high, left = 34, 30, 84
    spoken = "; ".join(
        f"{' '.join(t for t in a if t)} predicts {' '.join(t for t in b if t)}"
        for a, b in zip(tokens, targets, strict=True)
    )
    second = left + cell * wide + 96
    d = Drawing(
        max(610, second + cell * wide + 24), 118 + high * len(tokens),
        f"A batch of {len(tokens)} names, filled up to {wide} tokens: tokens on the left, and on the right "
        f"the targets, the same names one token further on. {spoken}. Cells that only fill up are hatched: "
        "they have no target and no loss.",
        title="A batch: what the model reads, and what it is to predict",
    )  # fmt: skip
    rows = [f"row {n}" for n in range(len(tokens))]
    top = 74
    places = [str(n) for n in range(wide)]
    grid = _padded(tokens, wide)
    d.matrix(left, top, grid, cell=cell, height=high, rows=rows, columns=places)
    d.matrix(second, top, _padded(targets, wide), cell=cell, height=high, columns=places)
    d.text(left + cell * wide / 2, 48, "tokens", bold=True)
    d.text(second + cell * wide / 2, 48, "targets", bold=True)
    d.arrow((left + cell * wide + 14, top + high / 2), (second - 14, top + high / 2), "one further",
            colour=ORANGE)  # fmt: skip
    below = top + high * len(tokens) + 24
    d.text(left, below, "∎ ends a name and begins the next; hatched cells fill up, and count for nothing",
           size=12, colour=DIM, anchor="start")  # fmt: skip
    return d


def loop() -> Drawing:
    """The training loop as a circle of tables; each arrow is a statement."""
    d = Drawing(
        760, 388,
        "The training loop as a circle of five tables. A batch of llm_dataset goes through llm_trace, "
        "which fills llm_tape and llm_tensor_rt and ends in the loss. llm_backprop gives each tensor of the "
        "run its gradient. llm_accumulate_grads adds them to llm_param.grad. One UPDATE changes data, "
        "m and v of llm_param. The loss becomes a row of llm_train_log. Then the next batch.",
        title="One turn of the loop: five tables, five statements",
    )  # fmt: skip
    data = d.box(40, 70, 170, 62, "llm_dataset\ntokens, target", mono=True, size=12)
    tape = d.box(300, 70, 170, 62, "llm_tape\nevery operation", mono=True, size=12)
    kept = d.box(560, 70, 170, 62, "llm_tensor_rt\ndata → loss, grad", mono=True, size=12)
    param = d.box(430, 262, 220, 62, "llm_param\ndata, grad, m, v, step", mono=True, size=12, fill=SAND,
                  line=ORANGE)  # fmt: skip
    log = d.box(60, 262, 170, 62, "llm_train_log\nstep, loss, lr", mono=True, size=12)
    d.arrow(data.right, tape.left)
    d.text(255, 60, "1 llm_trace", size=12, colour=BLUE)
    d.text(255, 152, "forward pass", size=11, colour=DIM)
    d.arrow(tape.right, kept.left, both=True)
    d.text(515, 60, "2 llm_backprop", size=12, colour=BLUE)
    d.text(515, 152, "backward pass", size=11, colour=DIM)
    d.arrow((645, 132), (600, 262))
    d.text(612, 205, "3 llm_accumulate_grads", size=12, colour=BLUE, anchor="end")
    d.arrow((590, 324), (490, 324), bend=26, colour=ORANGE, width=2)
    d.text(540, 372, "4 UPDATE: AdamW", size=12, colour=ORANGE)
    d.arrow(param.left, log.right)
    d.text(330, 283, "5 gradients to NULL,", size=12, colour=BLUE)
    d.text(330, 312, "the loss to the log", size=12, colour=BLUE)
    d.arrow((145, 262), (125, 132))
    d.text(148, 205, "next batch", size=12, colour=DIM, anchor="start")
    return d


def schedule(steps: Sequence[int], rates: Sequence[float], warmup: int) -> Drawing:
    """The learning rate of each step, from the log: a ramp, then half a cosine."""
    most, least = max(rates), rates[-1]
    d = Drawing(
        640, 232,
        f"The learning rate over {len(steps)} steps: it climbs in a straight line to {most:g} at step "
        f"{warmup}, then falls along half a cosine to {least:g}.",
        title="The learning rate of each step, from llm_train_log",
    )  # fmt: skip
    left, right, base, tall = 78, 600, 180, 120
    points = [(left + (right - left) * s / steps[-1], base - tall * r / most)
              for s, r in zip(steps, rates, strict=True)]  # fmt: skip
    d.line((left, base), (right, base), colour=GREY)
    d.line((left, base), (left, base - tall - 8), colour=GREY)
    for a, b in zip(points, points[1:], strict=False):
        d.line(a, b, colour=BLUE, width=2.4)
    for value in (0, most / 2, most):
        y = base - tall * value / most
        d.line((left - 4, y), (left, y), colour=GREY)
        d.text(left - 8, y + 4, f"{value:g}", size=11, anchor="end")
    for n in range(6):
        x = left + (right - left) * n / 5
        d.line((x, base), (x, base + 4), colour=GREY)
        d.text(x, base + 18, f"{steps[-1] * n // 5}", size=11)
    d.text((left + right) / 2, base + 38, "step", size=12)
    peak = points[min(range(len(steps)), key=lambda n: abs(steps[n] - warmup))]
    d.text(peak[0] + 12, peak[1] - 6, "warm-up ends: m and v have seen enough gradients", size=12,
           colour=ORANGE, anchor="start")  # fmt: skip
    d.text(right - 6, points[-1][1] - 34, "small steps to settle", size=12, colour=ORANGE, anchor="end")
    return d


def letters(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> Drawing:
    """Names letter by letter: rows (name, [(letter, probability given the letters before)])."""
    wide = max(len(chances) for _, chances in rows)
    left, cell, high = 96, 66, 58
    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{letter} {_percent(p)}" for letter, p in chances) for name, chances in rows
    )
    d = Drawing(
        left + cell * wide + 250, 66 + high * len(rows),
        f"Names letter by letter, each with its probability after the letters before it. {spoken}. The "
        "probability of a name is the product.",
        title="The probability of a name is a product",
    )  # fmt: skip
    for n, (name, chances) in enumerate(rows):
        y = 48 + high * n
        d.text(left - 12, y + 24, name, size=13, bold=True, anchor="end")
        for k, (letter, p) in enumerate(chances):
            strength = max(0.06, 1 + math.log10(max(p, 1e-4)) / 4)
            d.box(left + cell * k, y, cell - 6, 36, f"{letter}\n{_percent(p)}", fill=shade(0.8 * strength),
                  line=GREY, size=11)  # fmt: skip
        whole = math.exp(sum(math.log(p) for _, p in chances))
        said = f"= one in {_rounded(1 / whole)}"
        d.text(left + cell * len(chances) + 2, y + 24, said, size=13, anchor="start", colour=ORANGE)
    return d


def commits(every: int, cancelled: int, steps: int) -> Drawing:
    """Time of two sessions: steps, commits every so many, a cancellation in between, and going on."""
    kept = cancelled // every * every
    d = Drawing(
        780, 300,
        f"Two sessions. The first one trains and commits every {every} steps; it is cancelled in step "
        f"{cancelled}. Steps {kept + 1} to {cancelled} roll back, weights and log alike, and {kept} steps "
        "are kept. The second session reads the log at any time and sees whole commits only. The same call "
        f"goes on at step {kept + 1}.",
        title="What is committed stays",
    )  # fmt: skip
    left, unit = 120, 620 / steps

    def at(step: float) -> float:
        return left + unit * step

    d.text(left - 14, 96, "trains", bold=True, anchor="end")
    d.text(left - 14, 246, "watches", bold=True, anchor="end")
    d.line((left, 110), (at(cancelled), 110), colour=INK, width=1.6)
    first = range(0, kept, every)
    for start in first:
        d.box(at(start), 78, unit * every - 3, 26, fill=SOFT)
        d.line((at(start + every), 70), (at(start + every), 124), colour=BLUE, width=2)
    d.text(
        at(kept / 2), 64, f"a transaction of {every} steps each; COMMIT at each line", size=12, colour=BLUE
    )
    d.box(at(kept), 78, unit * (cancelled - kept), 26, fill=SAND, line=ORANGE, dashed=True)
    d.text(at(cancelled) + 8, 96, f"cancelled in step {cancelled}:", size=12, colour=ORANGE, anchor="start")
    d.text(at(cancelled) + 8, 112, "this part rolls back", size=12, colour=ORANGE, anchor="start")
    for start in range(kept, steps, every):
        d.box(at(start), 148, unit * min(every, steps - start) - 3, 26, fill=SOFT)
        d.line(
            (at(min(start + every, steps)), 140), (at(min(start + every, steps)), 182), colour=BLUE, width=2
        )
    d.text(at(kept) - 8, 165, f"the same call goes on at {kept + 1}", size=12, colour=BLUE, anchor="end")
    for step, end in ((every * 1.2, 126), (kept + every * 2.4, 184)):
        seen = int(step // every * every)
        d.arrow((at(step), 228), (at(seen), end), colour=GREY, dashed=True)
        d.text(at(step), 246, f"sees {seen} steps", size=12)
    d.text(left, 280, "steps are committed together with their rows of the log: both are there, or neither",
           size=12, colour=DIM, anchor="start")  # fmt: skip
    return d


def _padded(rows: Sequence[Sequence[str]], wide: int) -> list[list[str | None]]:
    return [[token or None for token in row] + [None] * (wide - len(row)) for row in rows]


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p >= 0.1 else f"{100 * p:.2g} %" if p >= 1e-4 else "<0.01 %"


def _rounded(value: float) -> str:
    """A large number with two digits: 23,000, or 1.3 × 10²⁰."""
    power = math.floor(math.log10(value))
    if power < 9:
        return f"{round(value, 1 - power):,.0f}"
    return f"{value / 10**power:.1f} × 10" + str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
