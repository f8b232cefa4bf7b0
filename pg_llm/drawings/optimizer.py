"""Drawings of AdamW: what a running mean remembers, and one step of a row of llm_param."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from pg_llm.drawings.svg import BLUE, GREY, ORANGE, Drawing

MOVE = "#fdf1e9"  # what moves the weight


def memory(beta: float = 0.9, steps: Sequence[int] = (1, 3, 10, 30)) -> Drawing:
    """How much each past gradient counts in the running mean m after some steps, and what that adds up to."""
    sums = {t: 1 - beta**t for t in steps}
    told = "; ".join(f"after {t} step{'s' * (t > 1)} {s:.2f}" for t, s in sums.items())
    panel, top, base, tall = 178, 62, 190, 110
    drawing = Drawing(
        panel * len(steps) + 40, 250,
        f"The shares of past gradients in a running mean with beta {beta:g}, newest on the right, as bars. "
        f"The newest has {1 - beta:.2g}, each older one {beta:g} times the next. They add up to: {told}. "
        "The rest is the 0 at which the mean started.",
        f"What m remembers, with β = {beta:g}",
    )  # fmt: skip
    for k, (t, total) in enumerate(sums.items()):
        left, width = 30 + k * panel, panel - 34
        shares = [(1 - beta) * beta ** (t - 1 - i) for i in range(t)]
        step = width / max(steps)
        for i, share in enumerate(reversed(shares)):
            height = tall * share / (1 - beta)
            x = left + width - (i + 0.5) * step
            drawing.line((x, base), (x, base - height), colour=BLUE, width=max(step - 0.8, 1))
        drawing.line((left, base), (left + width, base), colour=GREY)
        drawing.text(left + width / 2, top - 16, f"after {t} step{'s' * (t > 1)}", bold=True)
        drawing.text(left + width, base + 18, "newest", size=11, anchor="end", colour="#555")
        drawing.box(left, base + 28, width, 12, fill="#ffffff", line=GREY)
        drawing.box(left, base + 28, width * total, 12, fill=ORANGE, line=ORANGE)
        drawing.text(left + width / 2, base + 55, f"sum of the shares {total:.3f}", size=12)
    return drawing


def step(row: Mapping[str, float], lr: float, decay: float, name: str = "") -> Drawing:
    """One weight's way through AdamW: the columns before, what the step does, the columns after.

    row: data, grad, m, v, step before the step, and new_data, new_m, new_v after it, one number each.
    """
    t = int(row["step"]) + 1
    before = {key: row[key] for key in ("data", "grad", "m", "v")}
    after = {"data": row["new_data"], "m": row["new_m"], "v": row["new_v"]}
    m_hat, v_hat = row["new_m"] / (1 - 0.9**t), row["new_v"] / (1 - 0.999**t)
    pace = m_hat / v_hat**0.5
    drawing = Drawing(
        880, 330,
        f"AdamW's step {t} for one number of {name or 'a weight'}. Before: "
        + ", ".join(f"{key} {value:.4g}" for key, value in before.items())
        + f". The new m is 0.9 m + 0.1 grad, the new v 0.999 v + 0.001 grad squared. Corrected, they are "
        f"{m_hat:.4g} and {v_hat:.4g}; m divided by the root of v is {pace:.3g}. The weight is multiplied "
        f"by 1 - lr times decay, then moved by minus lr times {pace:.3g}, and becomes {row['new_data']:.4g}.",
        "One number, one step of AdamW" + f" ({name})" * bool(name),
    )  # fmt: skip
    left, middle, far, right = 20, 230, 480, 725
    y = {"data": 60, "grad": 130, "m": 200, "v": 270}
    boxes = {k: drawing.box(left, y[k], 130, 36, f"{k}  {v:.4g}", mono=True) for k, v in before.items()}
    drawing.text(left + 65, 48, "before", size=12, colour="#555")
    new_m = drawing.box(middle, y["m"] - 20, 190, 36, "0.9 m + 0.1 grad", fill="#ffffff")
    new_v = drawing.box(middle, y["v"] - 5, 190, 36, "0.999 v + 0.001 grad²", fill="#ffffff")
    shrunk = drawing.box(middle, y["data"], 190, 36, f"× (1 − {lr:g} · {decay:g})", fill="#ffffff")
    formula = f"m / (1 − 0.9^{t})\ndivided by √(v / (1 − 0.999^{t}))"
    quotient = drawing.box(far, 150, 190, 52, formula, size=11, fill=MOVE, line=ORANGE)
    moved = drawing.box(far, y["data"], 190, 36, f"− {lr:g} × {pace:.3g}", fill=MOVE, line=ORANGE)
    ends = {"data": y["data"], "m": y["m"] + 22, "v": y["v"]}
    done = {k: drawing.box(right, ends[k], 135, 36, f"{k}  {v:.4g}", mono=True) for k, v in after.items()}
    drawing.text(right + 67, 48, "after", size=12, colour="#555")
    for start, end in ((boxes["data"], shrunk), (shrunk, moved), (moved, done["data"]), (boxes["m"], new_m),
                       (boxes["grad"], new_m), (boxes["v"], new_v), (boxes["grad"], new_v)):  # fmt: skip
        drawing.arrow(start.right, end.left)
    drawing.arrow(new_m.right, quotient.left, colour=ORANGE)
    drawing.arrow(new_v.right, quotient.left, colour=ORANGE)
    drawing.arrow(quotient.top, moved.bottom, colour=ORANGE)
    drawing.arrow(new_m.right, done["m"].left)
    drawing.arrow(new_v.right, done["v"].left)
    return drawing


def whole_step(grads: Mapping[str, np.ndarray], loss: float, lr: float, decay: float, clip: float) -> Drawing:
    """A whole training step: forward, backward, clipping, schedule, decay, Adam; with a model's figures.

    grads: the gradient of each parameter. clip: the most that all of them together may measure.
    """
    norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads.values()))
    factor = min(1.0, clip / norm) if norm else 1.0
    matrices = sum(np.ndim(g) >= 2 for g in grads.values())
    vectors = len(grads) - matrices
    d = Drawing(
        900, 396,
        f"A whole training step. 1, the forward pass ends in the loss, {loss:.4g}. 2, the backward pass "
        f"gives {len(grads)} gradients, of norm {norm:.3g} together. 3, clipping multiplies all of them by "
        f"{factor:.3g}, so that their norm is at most {clip:g}. 4, the schedule gives the learning rate of "
        f"this step, {lr:g}. 5, the {matrices} matrices are multiplied by 1 - {lr:g} times {decay:g}; the "
        f"{vectors} vectors do not decay. 6, Adam renews m and v, moves every weight, and counts the step.",
        "One training step of the whole model",
    )  # fmt: skip
    first, second, third, last = 20, 250, 500, 740
    forward = d.box(first, 58, 170, 56, f"1 forward pass\nloss {loss:.4g}")
    backward = d.box(second, 58, 190, 56, f"2 backward pass\n{len(grads)} gradients")
    clipped = d.box(third, 58, 180, 56, f"3 clip\n× min(1, {clip:g} / {norm:.3g}) = {factor:.3g}", size=12,
                    fill=MOVE, line=ORANGE)  # fmt: skip
    plan = d.box(second, 156, 190, 62, fill="#ffffff")
    d.text(second + 54, 182, "4 schedule", size=13)
    d.text(second + 54, 202, f"lr {lr:g}", size=12, mono=True)
    _curve(d, second + 106, 208, 74, 40)
    rows = {
        "matrices": d.box(first, 262, 150, 34, f"{matrices} matrices"),
        "vectors": d.box(first, 308, 150, 34, f"{vectors} vectors"),
        "means": d.box(first, 354, 150, 34, "m, v", mono=True),
    }
    shrunk = d.box(second, 262, 190, 34, f"5 decay: × (1 − {lr:g} · {decay:g})", fill="#ffffff")
    adam = d.box(third, 256, 160, 134, "6 Adam\n\nm and v, corrected:\n− lr · m / √v", size=12, fill=MOVE,
                 line=ORANGE)  # fmt: skip
    done = {label: d.box(last, y, 135, 34, label, mono=True)
            for label, y in (("data", 262), ("m, v", 308), ("step + 1", 354))}  # fmt: skip
    for start, end in ((forward, backward), (backward, clipped), (rows["matrices"], shrunk)):
        d.arrow(start.right, end.left)
    d.arrow(clipped.bottom, (clipped.bottom[0], adam.top[1]), colour=ORANGE)
    d.text(clipped.bottom[0] + 8, 188, "grad", size=12, anchor="start", mono=True)
    d.arrow(plan.right, (third + 40, adam.top[1]))
    d.arrow(plan.bottom, shrunk.top)
    for box in (shrunk, rows["vectors"], rows["means"]):
        d.arrow(box.right, (third, box.right[1]))
    for box in done.values():
        d.arrow((third + 160, box.left[1]), box.left)
    d.text(first + 75, 250, "llm_param before", size=12, colour="#555", mono=True)
    d.text(last + 67, 250, "after", size=12, colour="#555")
    return d


def _curve(drawing: Drawing, x: float, base: float, width: float, height: float) -> None:
    """The shape of a schedule: a ramp, then half a cosine."""
    shares = [k / 4 for k in range(5)] + [(1 + math.cos(math.pi * k / 16)) / 2 for k in range(1, 17)]
    points = [(x + width * k / 20, base - height * share) for k, share in enumerate(shares)]
    drawing.line((x, base), (x + width, base), colour=GREY)
    for start, end in itertools.pairwise(points):
        drawing.line(start, end, colour=BLUE, width=2)
