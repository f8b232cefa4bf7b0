"""Drawings of notebook 03: counts, a throw of the dice, a table as a product of two narrow matrices."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pg_llm.drawings.svg import GREY, INK, ORANGE, Drawing, shade


def bigram_counts(frame: pd.DataFrame, row: str) -> Drawing:
    """A part of the bigram table as counts; one row becomes probabilities.

    frame: columns before, after, n, p, a row for each cell, of one shape; row: the token whose row is lit.
    """
    before, after = list(dict.fromkeys(frame["before"])), list(dict.fromkeys(frame["after"]))
    n = frame.set_index(["before", "after"])["n"]
    p = frame.set_index(["before", "after"])["p"]
    cell, height, left, top = 62, 28, 110, 84
    width, bottom = cell * len(after), top + height * len(before)
    lit = before.index(row)
    total = round(sum(n[row, a] for a in after) / max(sum(p[row, a] for a in after), 1e-9))
    shares = ", ".join(f"{_plain(a)} {n[row, a]:.0f} of {total}" for a in after if n[row, a])
    d = Drawing(
        left + width + 130, bottom + 112,
        f"A table of counts with a row for each token before and a column for each token after. The row of "
        f"{_plain(row)} is lit: {shares}. Divided by {total}, the total of the row, its counts become "
        "probabilities.",
        "How often each token followed each other one",
    )  # fmt: skip
    values = [[f"{n[b, a]:.0f}" if n[b, a] else "·" for a in after] for b in before]
    d.matrix(left, top, values, cell=cell, height=height, rows=[_plain(b) for b in before],
             columns=[_plain(a) for a in after])  # fmt: skip
    d.text(left + width / 2, top - 30, "the token after", size=12, colour=GREY)
    d.text(22, (top + bottom) / 2, "the token before", size=12, colour=GREY, turn=-90)
    _outline(d, left, top + lit * height, width, height)
    d.text(left + width + 12, top + (lit + 0.5) * height + 5, f"total {total}", anchor="start", bold=True)
    y = bottom + 46
    d.arrow((left + width + 36, top + (lit + 1) * height), (left + width + 36, y + 10), colour=ORANGE)
    d.text(left + width + 44, y - 14, f"÷ {total}", anchor="start", colour=ORANGE, bold=True)
    d.matrix(left, y, [[float(p[row, a]) for a in after]], cell=cell, height=height, rows=["p"], limit=1)
    d.text(left, y + height + 24, f"what follows {_plain(row)}: a row of probabilities",
           anchor="start", size=12)  # fmt: skip
    return d


def inverse_cdf(frame: pd.DataFrame, r: float) -> Drawing:
    """Sampling: the probabilities laid end to end on a line from 0 to 1, and a random number r on it.

    frame: columns after, p, in the order in which they are laid.
    """
    ends = np.cumsum(frame["p"].to_numpy(float))
    starts = np.concatenate([[0], ends[:-1]])
    hit = min(int(np.searchsorted(ends, r, side="right")), len(ends) - 1)
    tokens = [_plain(t) for t in frame["after"]]
    left, length, y = 40.0, 640.0, 84.0
    laid = ", ".join(f"{t} up to {e:.2f}" for t, e in zip(tokens, ends, strict=True))
    d = Drawing(
        left + length + 40, 198,
        f"A line from 0 to 1 is divided among the tokens, each as long as its probability: {laid}. The "
        f"random number {r:g} falls on {tokens[hit]}.",
        "A random number chooses a token",
    )  # fmt: skip
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        fill = ORANGE if k == hit else shade(0.25 + 0.2 * (k % 2))
        d.box(left + length * start, y, length * (end - start), 42, fill=fill, line="#ffffff")
        middle = left + length * (start + end) / 2
        d.text(middle, y + 62, tokens[k], size=12, bold=k == hit)
        d.text(middle, y + 78, f"{end - start:.2f}", size=11, colour=GREY)
    for share in (0, 0.25, 0.5, 0.75, 1):
        d.text(left + length * share, y - 8, f"{share:g}", size=11, colour=GREY)
    d.arrow((left + length * r, y - 26), (left + length * r, y + 2), colour=INK, width=2)
    d.text(left + length * r, y - 32, f"r = {r:g}", bold=True)
    d.text(left, y + 98, "a piece is as long as its probability, and is hit that often",
           anchor="start", size=12)  # fmt: skip
    return d


def factorisation(wte, head, p, before: list[str], after: list[str], lit: tuple[int, int]) -> Drawing:
    """A table of probabilities as softmax of a tall matrix times a wide one; one cell with its score.

    wte: (M,d) and head: (N,d), the rows of the tokens in before and after; p: (M,N); lit: the cell shown.
    """
    wte, head, p = (np.asarray(t, np.float64) for t in (wte, head, p))
    d_model, (i, j) = wte.shape[1], lit
    cell, height, top, left, gap = 46, 28, 92, 76, 158
    score = float(wte[i] @ head[j])
    story = (
        f"Each token before is a row of {d_model} numbers in wte, each token after a column of {d_model} "
        f"numbers in the transpose of head. The row of {_plain(before[i])} times the column of "
        f"{_plain(after[j])} is a score of {score:.2f}; softmax over the whole row of scores makes it a "
        f"probability of {p[i, j]:.2f}."
    )
    below = top + height * max(len(before), d_model)
    width = left + cell * (d_model + 2 * len(after)) + 56 + gap + 24
    d = Drawing(width, below + 76, story, "A table from two narrow matrices")
    words, following = [_plain(t) for t in before], [_plain(t) for t in after]
    limit = float(max(np.abs(wte).max(), np.abs(head).max()))
    a = d.matrix(left, top, wte.tolist(), cell=cell, height=height, rows=words, title="wte", digits=1,
                 limit=limit, size=11)  # fmt: skip
    x = a.x + a.width + 56
    b = d.matrix(x, top, head.T.tolist(), cell=cell, height=height, columns=following, title="headᵀ",
                 digits=1, limit=limit, size=11)  # fmt: skip
    d.text(a.x + a.width + 28, top + height * d_model / 2 + 8, "@", size=20, bold=True)
    x = b.x + b.width + gap
    c = d.matrix(x, top, p.tolist(), cell=cell, height=height, rows=words, columns=following,
                 title="probability", limit=1, size=11)  # fmt: skip
    middle = top + height * d_model / 2
    d.arrow((b.x + b.width + 10, middle), (b.x + b.width + 82, middle), "softmax")
    _outline(d, a.x, top + i * height, a.width, height)
    _outline(d, b.x + j * cell, top, cell, b.height)
    _outline(d, c.x + j * cell, top + i * height, cell, height)
    terms = " + ".join(
        f"{u:.2f}·{v:.2f}" if v >= 0 else f"{u:.2f}·({v:.2f})" for u, v in zip(wte[i], head[j], strict=True)
    ).replace("-", "−")
    d.text(
        left, below + 34, f"{words[i]} → {following[j]}: {terms} = {_minus(score)}", anchor="start", bold=True
    )
    d.text(
        left, below + 56, f"the score; softmax over the row makes it {p[i, j]:.2f}", anchor="start", size=12
    )
    return d


def _outline(d: Drawing, x: float, y: float, width: float, height: float) -> None:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    for start, end in zip(corners, corners[1:], strict=False):
        d.line(start, end, colour=ORANGE, width=2.6)


def _minus(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _plain(token: str) -> str:
    """A token to read in a drawing: a space at its beginning as ␣."""
    return "␣" + token[1:] if token.startswith(" ") else token
