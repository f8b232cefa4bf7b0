"""Drawings of notebook 13: versions of a model, a tree of trials, a crash on a line of time, branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, ORANGE, Drawing, shade

SOFT, LOST = "#5f6972", "#f8dccb"
COLOURS = [(BLUE, shade(0.22)), (ORANGE, LOST), ("#008060", "#d4ece4")]  # of versions: line, fill


def versions(seen: pd.DataFrame) -> Drawing:
    """What each session sees of a model, moment by moment; every version has a colour of its own.

    seen: rows in the order of time, with the columns when, session, highest_step, sha256.
    """
    moments, sessions = list(dict.fromkeys(seen["when"])), list(dict.fromkeys(seen["session"]))
    states = list(dict.fromkeys(seen["sha256"]))
    wide, left = 142, 110
    told = ". ".join(
        f"{when}: " + ", ".join(f"{r.session} sees step {r.highest_step}" for r in rows.itertuples())
        for when, rows in seen.groupby("when", sort=False)
    )
    d = Drawing(
        left + wide * len(moments) + 20, 92 + 62 * len(sessions),
        f"A table of what two sessions see of one model. {told}.",
        title="Each session reads one version, as a whole",
    )  # fmt: skip
    for n, when in enumerate(moments):
        d.text(left + (n + 0.5) * wide, 56, when, size=12.5, bold=True)
    for k, session in enumerate(sessions):
        y = 68 + 62 * k
        d.text(left - 12, y + 28, session, anchor="end")
        for n, when in enumerate(moments):
            row = seen[(seen["when"] == when) & (seen["session"] == session)].iloc[0]
            line, fill = COLOURS[states.index(row.sha256) % len(COLOURS)]
            d.box(left + n * wide + 4, y, wide - 8, 46, f"step {row.highest_step}\n{row.sha256}",
                  fill=fill, line=line, size=12)  # fmt: skip
    d.text(left, 84 + 62 * len(sessions), "time →", anchor="start", colour=SOFT)
    return d


def trials(tried: Sequence[tuple[float, float]], step: int) -> Drawing:
    """Trials from one state, each undone: arrows from the state to losses, the lowest one in blue.

    tried: (learning rate, loss) of each trial. step: that of the state.
    """
    best = min(loss for _, loss in tried)
    told = "; ".join(f"rate {rate:g}, loss {loss:.3f}" for rate, loss in tried)
    d = Drawing(
        620, 58 + 62 * len(tried),
        f"From the model at step {step}, {len(tried)} arrows lead to trials: {told}. "
        "A dashed arrow leads back from each of them: it was rolled back. The lowest loss is marked.",
        title=f"{len(tried)} trainings in one query, all undone",
    )  # fmt: skip
    start = d.box(24, 24 + 31 * len(tried), 110, 44, f"step {step}\nsavepoint")
    for n, (rate, loss) in enumerate(tried):
        y = 46 + 62 * n
        is_best = loss == best
        colour, fill = (BLUE, "#e8f1f8") if is_best else (GREY, "#ffffff")
        trial = d.box(300, y, 130, 46, f"rate {rate:g}\nloss {loss:.3f}", fill=fill, line=colour)
        d.arrow(start.right, (trial.x, y + 15), colour=colour, width=2 if is_best else 1.4)
        d.arrow((trial.x, y + 33), (start.right[0], start.right[1] + 8), colour=GREY, dashed=True, width=1)
        end = "the best, undone as well" if is_best else "undone"
        d.text(444, y + 28, end, size=12, anchor="start", colour=SOFT)
    return d


def crash(commits: pd.DataFrame, reported: int, planned: int) -> Drawing:
    """A training on a line of time: what was committed, what was lost, what is still to do.

    commits: a row for each commit, in order, with from_step and to_step. reported: the step at which the
    session was killed. planned: the last step of the run.
    """
    first, last = int(commits["from_step"].min()) - 1, int(commits["to_step"].max())
    d = Drawing(
        680, 190,
        f"A line of time from step {first} to {planned}. {len(commits)} commits, at steps "
        f"{', '.join(str(s) for s in commits['to_step'])}. Steps {last + 1} to {reported} were computed and "
        f"not committed when the session was killed: they are lost. The run goes on from step {last}.",
        title="What a crash leaves: the last commit",
    )  # fmt: skip

    def x(step: float) -> float:
        return 40 + 600 * (step - first) / (planned - first)

    row: Any
    for row in commits.itertuples():
        begin = x(row.from_step - 1)
        label = f"{row.from_step} to {row.to_step}"
        d.box(begin, 72, x(row.to_step) - begin, 34, label, fill=shade(0.3))
        d.line((x(row.to_step), 62), (x(row.to_step), 116), colour=BLUE, width=2.4)
        d.text(x(row.to_step), 56, "commit", size=12, colour=BLUE)
    d.box(x(last), 72, x(reported) - x(last), 34, "lost", fill=LOST, line=ORANGE, dashed=True)
    d.line((x(reported), 62), (x(reported), 116), colour=ORANGE, width=2.4)
    d.text(x(reported), 56, "kill −9", size=12.5, colour=ORANGE, bold=True)
    d.box(
        x(reported), 72, x(planned) - x(reported), 34, "never began", fill="#ffffff", line=GREY, dashed=True
    )
    for step in (first, *commits["to_step"], planned):
        d.text(x(step), 134, str(step), size=12)
    d.text(x(reported), 134, str(reported), size=12, colour=ORANGE)
    d.arrow((x(reported), 142), (x(last), 142), colour=BLUE, bend=14)
    d.text((x(reported) + x(last)) / 2, 174, "goes on from the last commit", size=12, colour=BLUE)
    return d


def branches(runs: pd.DataFrame) -> Drawing:
    """Models that grew from others: a line for each, which leaves its parent's line at a checkpoint.

    runs: rows with model, parent (None: a trunk), from_step, to_step and note, the trunk first.
    """
    height = 64
    end = int(runs["to_step"].max())
    told = " ".join(
        f"{r.model} has steps {r.from_step} to {r.to_step}"
        + (f" and branches off {r.parent}: {r.note}." if isinstance(r.parent, str) else ".")
        for r in runs.itertuples()
    )
    d = Drawing(
        700, 66 + height * len(runs), f"Branches of one training. {told}", title="One training, its branches"
    )

    def x(step: float) -> float:
        return 96 + 400 * step / end

    rows: list[Any] = list(runs.itertuples())
    lines = {row.model: 66 + height * n for n, row in enumerate(rows)}
    for row in rows:
        y, trunk = lines[row.model], not isinstance(row.parent, str)
        colour = BLUE if trunk else ORANGE
        begin = x(row.from_step)
        if not trunk:
            d.line((begin, lines[row.parent]), (begin, y), colour=colour, width=2, dashed=True)
            d.box(begin - 5, lines[row.parent] - 5, 10, 10, fill=BLUE)
        d.line((begin, y), (x(row.to_step), y), colour=colour, width=5)
        d.text(begin - 8, y + 5, str(row.from_step), size=12, anchor="end", colour=SOFT)
        d.text(x(row.to_step), y - 9, str(row.to_step), size=12, anchor="end", colour=SOFT)
        d.text(x(row.to_step) + 14, y + 5, row.model, size=13.5, anchor="start", bold=True)
        d.text(x(row.to_step) + 14, y + 21, row.note, size=11.5, anchor="start", colour=SOFT)
    return d
