"""The training monitor: a training in the background with its loss curve, samples, and controls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
import psycopg
import traitlets

from pg_llm.errors import KitError, PgLlmError
from pg_llm.notebook.training import OPTIONS, OVER, Sample, Sampling, Step, Training
from pg_llm.widgets.base import CSS, Shown, in_words, kernel, script
from pg_llm.widgets.picture import Picture, n

POINTS = 240  # of a curve
MOST = 9  # samples in the static picture: the first ones and the last ones


class TrainingMonitor(Shown):
    """The widget that pg_llm.training_monitor returns; its methods do what its buttons do."""

    _esm = script("monitor")
    _css = CSS

    model = traitlets.Unicode().tag(sync=True)
    learning_rate = traitlets.Float(min=0).tag(
        sync=True
    )  # the peak; another one holds from the next commit on

    def __init__(
        self,
        conn: psycopg.Connection | None,
        model: str,
        steps: int,
        sampling: Sampling,
        references: Mapping[str, float],
        options: dict[str, Any],
    ):
        self.references = {str(name): float(level) for name, level in references.items()}
        self._answers, self._drawing = 0, threading.Lock()
        self._ready = False
        self.training = Training(conn, model, steps, sampling, options, self._told)
        super().__init__(model=model, learning_rate=self.training.rate)
        self._ready = True
        self._told()
        self.observe(self._turned, names=["learning_rate"])
        self.on_msg(self._message)

    # -- what a learner does ----

    def start(self) -> TrainingMonitor:
        """Trains, in the background: begins, resumes, or trains as many steps again. Errors: KitError."""
        self.error = ""
        self.training.start()
        return self

    resume = start

    def stop(self) -> TrainingMonitor:
        """Cancels the training; what is committed stays, and start() continues from there."""
        self.training.stop()
        self.training.wait()
        return self

    def roll_back(self, checkpoint: int | None = None) -> int:
        """Stops, and loads a checkpoint: None is the one saved before the start. Returns the model's step.

        Weights, moments and step are then those of the checkpoint; llm_train_log keeps the steps undone.
        Errors: KitError, psycopg.Error.
        """
        self.error = ""
        return self.training.roll_back(checkpoint)

    def wait(self) -> TrainingMonitor:
        """Waits until the run is complete or stopped; starts it first if it never was. Prints in a terminal.

        Interrupting stops the training, too. Errors: KitError, with the reason for which training failed.
        """
        if self.training.state == "ready":
            self.start()
        printed = 0
        try:
            while not self.training.wait(0.2):
                printed = self._print(printed)
        except KeyboardInterrupt:
            self.stop()
            raise
        self._print(printed)
        if self.training.state == "failed":
            raise KitError(self.training.error)
        return self

    @property
    def state(self) -> str:
        """ready, running, stopping, stopped, done or failed."""
        return self.training.state

    @property
    def step(self) -> int:
        """The model's step, as far as it is committed."""
        return self.training.step

    @property
    def samples(self) -> list[Sample]:
        """What the model wrote: step, texts, the step's loss, and that on the validation set."""
        return [*self.training.samples]

    def _print(self, printed: int) -> int:
        """A line for each new sample where no widget is shown; returns how many samples are printed."""
        samples = self.samples
        if kernel() is None:
            for sample in samples[printed:]:
                print(" ".join(filter(None, self._line(sample))), flush=True)
        return len(samples)

    def _line(self, sample: Sample) -> tuple[str, str, str]:
        """Step, loss and text of a sample."""
        known = [f"loss {sample.loss:.2f}"] if sample.loss is not None else []
        known += [f"validation {sample.validation:.2f}"] if sample.validation is not None else []
        return f"step {sample.step}", ", ".join(known), " · ".join(one_line(text) for text in sample.texts)

    # -- events: none of them needs the notebook's connection or its main thread ----

    def _message(self, widget: object, content: dict, buffers: object) -> None:
        kind = content.get("kind")
        work = {
            "start": self.start,
            "again": self.start,
            "stop": self.training.stop,
            "back": lambda: self.roll_back(content.get("checkpoint")),
        }.get(str(kind))
        if work is None:
            return
        try:
            work()
        except (psycopg.Error, PgLlmError) as error:
            self.error = in_words(error)
        self._told()

    def _turned(self, change: Any) -> None:
        try:
            self.training.turn(change["new"])
        except KitError as error:
            self.error = str(error)
        self._told()

    def _told(self) -> None:
        """Something has changed; any thread."""
        if not self._ready:
            return
        with self._drawing, contextlib.suppress(RuntimeError, OSError):  # the kernel may be ending
            self._answers += 1
            if self.training.error:
                self.error = self.training.error
            self.view = {**self._seen(), "n": self._answers}

    def _seen(self) -> dict[str, Any]:
        t = self.training
        return {
            "state": t.state,
            "step": t.step,
            "end": self._end(),
            "steps": t.steps,
            "loss": None if t.loss is None else float(t.loss),
            "speed": t.speed,
            "rate": t.planned[0],
            "samples": [asdict(sample) for sample in self.samples],
            "checkpoints": [asdict(checkpoint) for checkpoint in t.checkpoints],
            "notes": [*t.notes],
            "svg": self._picture(live=True, curve=True),
            "sql": t.statements(),
        }

    # -- the picture ----

    def _end(self) -> int:
        t = self.training
        return t.end if t.end is not None else t.step + t.steps

    def _settled(self) -> bool:
        """False while training runs, when a picture would show another moment each time."""
        return self.training.state in OVER

    def _progress(self) -> str:
        kept = self.training.kept
        if not kept:
            return "no step yet"
        first, last = kept[0], kept[-1]
        return (
            f"step {last.step} of {self._end()}, loss {first.loss:.2f} at step {first.step} and "
            f"{last.loss:.2f} at step {last.step}"
        )

    def describe(self) -> str:
        """The training and what came of it in words; while it runs, only its plan."""
        t = self.training
        text = f"Training monitor of {t.model}: {t.steps} steps, learning rate up to {t.planned[0]:g}"
        if t.planned[3]:
            text += f", dataset {t.planned[3]}"
        text += f". Every {t.sampling.every} steps it samples."
        lines = ", ".join(f"{name} {level:.2f}" for name, level in self.references.items())
        text += f" Reference lines: {lines}." if lines else ""
        if not self._settled():
            return text
        text += f" {t.state.capitalize()}: {self._progress()}."
        for sample in self._chosen():
            step, losses, words = self._line(sample)
            text += f" {step.capitalize()}{', ' + losses if losses else ''}: {words}." if words else ""
        return text

    def _chosen(self) -> list[Sample]:
        """The samples of the picture."""
        kept = [s for s in self.samples if not s.undone]
        return kept if len(kept) <= MOST else kept[: MOST // 2] + kept[-(MOST - MOST // 2) :]

    def draw(self) -> str:
        """The loss curve with its reference lines, and samples below it."""
        return self._picture(live=False, curve=self._settled())

    def _picture(self, live: bool, curve: bool) -> str:
        p = Picture(760, live)
        t = self.training
        top = 18.0
        if not live:
            progress = self._progress() if curve else f"{t.steps} steps"
            p.text(18, 26, f"Training monitor: {t.model}, {progress}", bold=True)
            top = 44.0
        plot = Plot(p, top, self.references)
        plot.draw(self.training.log if curve else [], self.samples if curve else [], t, self._end())
        if not live and curve:
            y = p.height + 22
            for sample in self._chosen():
                if not sample.texts:
                    continue
                p.text(66, y, f"{sample.step}", size=12, colour="muted", anchor="end")
                text = " · ".join(one_line(each) for each in sample.texts)
                p.text(78, y, text if len(text) <= 92 else text[:91] + "…", size=12, mono=True)
                y += 18
        return p.svg(self.describe())


class Plot:
    """The axes of losses over steps in a picture."""

    LEFT, RIGHT, HEIGHT = 56.0, 610.0, 200.0

    def __init__(self, p: Picture, top: float, references: Mapping[str, float]):
        self.p, self.top, self.references = p, top, references

    def draw(self, log: list[Step], samples: list[Sample], t: Training, end: int) -> None:
        """Curves, points of the validation loss, reference lines and axes."""
        curves = [curve(list(rows)) for _, rows in groupby(log, lambda row: (row.undone, row.run))]
        undone = [next(iter(rows)).undone for _, rows in groupby(log, lambda row: (row.undone, row.run))]
        held = [(s.step, s.validation, s.undone) for s in samples if s.validation is not None]
        levels = (
            [y for c in curves for y in c[1]] + [loss for _, loss, _ in held] + [*self.references.values()]
        )
        levels = [y for y in levels if np.isfinite(y)] or [0.0, 1.0]
        start = min([row.step for row in log] + [s.step for s in samples] + [end - t.steps])
        self.x0, self.x1 = max(0, start), max(end, start + 1, *(row.step for row in log[-1:]))
        space = 0.06 * (max(levels) - min(levels)) or 0.5
        self.y0, self.y1 = max(0.0, min(levels) - space), max(levels) + space
        self._axes(bool(log or self.references))
        self._lines()
        for (x, y), gone in zip(curves, undone, strict=True):
            self._curve(x, y, gone)
        for step, loss, gone in held:
            across, down = self._at(step, loss)
            colour = "line" if gone else "orange"
            self.p.add(f'<circle cx="{n(across)}" cy="{n(down)}" r="4" fill="{self.p.colour(colour)}"/>')
        wide = max([round(np.median(np.diff(x))) for x, _ in curves if len(x) > 1], default=1)
        names = [f"mean of {wide} steps" if wide > 1 else "each step"] * bool(log)
        names += ["● validation"] * bool(held) + ["dashed grey: rolled back"] * any(undone)
        self.p.text(self.RIGHT, self.top - 4, ", ".join(names), size=11.5, colour="muted", anchor="end")
        self.p.height = max(self.p.height, self.top + self.HEIGHT + 34)

    def _at(self, step: float, loss: float) -> tuple[float, float]:
        x = self.LEFT + (step - self.x0) / (self.x1 - self.x0) * (self.RIGHT - self.LEFT)
        share = (loss - self.y0) / (self.y1 - self.y0) if np.isfinite(loss) else 1.0
        return x, self.top + (1 - share) * self.HEIGHT

    def _axes(self, numbers: bool) -> None:
        p, bottom = self.p, self.top + self.HEIGHT
        p.text(self.LEFT - 38, self.top - 4, "loss (nats per token)", size=11.5, colour="muted")
        for value in ticks(self.y0, self.y1, 5) if numbers else []:
            y = self._at(self.x0, value)[1]
            p.path(f"M{n(self.LEFT)} {n(y)} H{n(self.RIGHT)}", line="faint", width=1)
            p.text(self.LEFT - 6, y + 4, f"{value:g}", size=11.5, colour="muted", anchor="end")
        p.path(f"M{n(self.LEFT)} {n(bottom)} H{n(self.RIGHT)}", line="line", width=1)
        for value in ticks(self.x0, self.x1, 7):
            x = self._at(value, self.y0)[0]
            p.path(f"M{n(x)} {n(bottom)} v4", line="line", width=1)
            p.text(x, bottom + 17, f"{value:g}", size=11.5, colour="muted", anchor="middle")
        p.text((self.LEFT + self.RIGHT) / 2, bottom + 32, "step", size=11.5, colour="muted", anchor="middle")

    def _lines(self) -> None:
        """Reference lines, their names right of the axes and apart from each other."""
        places = sorted((self._at(self.x0, level)[1], name, level) for name, level in self.references.items())
        below = -1e9
        for y, name, level in places:
            self.p.path(f"M{n(self.LEFT)} {n(y)} H{n(self.RIGHT)}", line="orange", dashed=True, width=1.2)
            below = max(y + 4, below + 14)
            self.p.text(self.RIGHT + 6, below, f"{name} {level:.2f}", size=11.5)

    def _curve(self, x: np.ndarray, y: np.ndarray, undone: bool) -> None:
        points = [self._at(a, b) for a, b in zip(x, y, strict=True)]
        if len(points) == 1:
            points = [points[0], (points[0][0] + 1.5, points[0][1])]
        path = "M" + " L".join(f"{n(a)} {n(b)}" for a, b in points)
        self.p.path(path, line="line" if undone else "blue", dashed=undone, width=1.2 if undone else 1.8)


def one_line(text: str) -> str:
    """A sample with its line breaks as signs.

    >>> one_line("Emma\\nNoah")
    'Emma⏎Noah'
    """
    marks = {"\n": "⏎", "\t": "⇥"}
    return "".join(c if c.isprintable() else marks.get(c, "�") for c in text) or "(no text)"


def curve(rows: list[Step]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of a curve, means over equally many steps each where there are many.

    >>> curve([Step(i, 1, i, 0.1, float(i), 1, 0.0) for i in (1, 2)])[1].tolist()
    [1.0, 2.0]
    """
    step, loss = np.array([row.step for row in rows]), np.array([row.loss for row in rows], float)
    wide = -(-len(rows) // POINTS)
    starts = np.arange(0, len(rows), wide)
    counts = np.diff([*starts, len(rows)])
    return np.add.reduceat(step, starts) / counts, np.add.reduceat(loss, starts) / counts


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between low and high.

    >>> ticks(0, 400, 5)
    [0.0, 100.0, 200.0, 300.0, 400.0]
    """
    span = (high - low) or 1.0
    base = 10.0 ** np.floor(np.log10(span / most))
    size = next(base * k for k in (1, 2, 2.5, 5, 10, 20) if span / (base * k) <= most)
    first, last = int(np.ceil(low / size - 1e-9)), int(high / size + 1e-9)
    return [round(float(size * k), 10) for k in range(first, last + 1)]


def training_monitor(
    model: str,
    steps: int,
    *,
    dataset: str | None = None,
    every: int = 50,
    prompt: str | None = None,
    tokens: int | None = None,
    draws: int = 1,
    sample_seed: int = 1,
    temperature: float = 1.0,
    validation: str | None = None,
    references: Mapping[str, float] | None = None,
    commit_every: int | None = None,
    conn: psycopg.Connection | None = None,
    **options: Any,
) -> TrainingMonitor:
    """Trains a model by llm_train_loop on a connection of its own, while cells go on running.

    Buttons and methods: start, stop (what is committed stays), resume, and roll_back to the state before the
    start, which is saved as a checkpoint, or to another checkpoint of the model. learning_rate is the peak;
    another one holds from the next commit on: what is left of the steps is then a run of its own.
    steps: of the run, as for llm_train_loop; wait() until they are done gives the weights of one such call.
    every: steps between two samples. Each is `draws` texts of `tokens` tokens (None: as many as fit, up
    to 64) after prompt (None: the end token, after which texts begin), with the seeds sample_seed,
    sample_seed + 1 …, up to the next end token; validation names a dataset whose loss is then measured, too.
    references: name to loss, lines in the plot.
    options: those of llm_train_loop, such as lr_max, batch_size, warmup, seed.
    conn: None is the notebook's; the training's own connection leads to the same database.
    Errors: KitError, psycopg.Error. Example: training_monitor("names", 400, dataset="names").start()
    """
    for name, value in {"steps": steps, "every": every, "tokens": tokens or 1, "draws": draws}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise KitError(f"{name} is {value!r}; it must be a whole number from 1 up")
    if unknown := sorted({*options} - OPTIONS):
        known = ", ".join(sorted(OPTIONS))
        raise KitError(f"llm_train_loop's option {unknown[0]!r} is none of the monitor's: {known}")
    sampling = Sampling(every, prompt, tokens, draws, sample_seed, float(temperature), validation)
    given = {**options, "dataset": dataset, "commit_every": commit_every}
    return TrainingMonitor(conn, model, steps, sampling, references or {}, given)
