"""A training in the background: llm_train_loop on a connection of its own, so that cells go on running.

One thread waits for the server, which trains; another reads llm_train_log, over a second connection. Both
connections are closed when training stops. A server whose client has gone stops, too.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.errors import KitError, PgLlmError
from pg_llm.notebook import session
from pg_llm.server.connect import open_database

OVER = ("stopped", "done", "failed")
LOOK = 0.4  # seconds between two readings of the log
NOTE = "before the training monitor"
SETTINGS = """
    SET application_name = 'pg_llm training monitor';
    SET client_min_messages = notice;
    SET lock_timeout = '10s'"""
# What the caller of llm_train_loop may choose here; the rest is the monitor's own.
OPTIONS = frozenset(
    "dropout_p beta1 beta2 eps wd lr_max warmup grad_clip grad_workers batch_size accumulation dataset seed "
    "min_lr commit_every recompute activations".split()
)
PLAN = (
    "SELECT lr_max, min_lr, warmup, dataset FROM {0}._llm_train_plan(%(model)s, %(n_steps)s, NULL, NULL, "
    "NULL, NULL, %(dropout_p)s, %(beta1)s, %(beta2)s, %(eps)s, %(wd)s, %(lr_max)s, %(warmup)s, "
    "%(grad_clip)s, %(batch_size)s, %(accumulation)s, %(dataset)s, %(seed)s, %(min_lr)s)"
)
STEP = "SELECT coalesce(max(step), 0) FROM {0}.llm_param WHERE model = %(model)s"
LAST = "SELECT coalesce(max(id), 0) FROM {0}.llm_train_log WHERE model = %(model)s"
LOSS = (
    "SELECT (SELECT loss FROM {0}.llm_train_log WHERE model = %(model)s AND step = %(step)s "
    "ORDER BY id DESC LIMIT 1)"
)
RUN = (
    "SELECT run, first_step, n_steps FROM {0}.llm_train_run WHERE model = %(model)s ORDER BY run DESC LIMIT 1"
)
LOG = (
    "SELECT id, run, step, lr, loss, tokens, seconds FROM {0}.llm_train_log "
    "WHERE model = %(model)s AND (id > %(after)s OR run = %(run)s) ORDER BY id"
)


@dataclass(frozen=True)
class Step:
    """A row of llm_train_log; undone: the model was set back to an earlier step."""

    id: int
    run: int
    step: int
    lr: float
    loss: float
    tokens: int
    seconds: float
    undone: bool = False


@dataclass(frozen=True)
class Sample:
    """What the model wrote at a step, the step's loss, and that on the validation set, if there is one."""

    step: int
    texts: tuple[str, ...]
    loss: float | None = None
    validation: float | None = None
    undone: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A row of llm_checkpoint; own: the monitor saved it before it began."""

    id: int
    step: int
    note: str
    own: bool


@dataclass(frozen=True)
class Sampling:
    """What is sampled, every so many steps: prompt None begins with the end token, if the model has one."""

    every: int
    prompt: str | None = None
    tokens: int | None = None
    draws: int = 1
    seed: int = 1
    temperature: float = 1.0
    validation: str | None = None


class Training:
    """A training that can be started, stopped, resumed, given another learning rate, and rolled back.

    state: ready, running, stopping, stopped, done or failed. told: called after each change, by any thread.
    """

    def __init__(
        self,
        conn: psycopg.Connection | None,
        model: str,
        steps: int,
        sampling: Sampling,
        options: dict[str, Any],
        told: Callable[[], None],
    ):
        self._conn, self.model, self.steps, self.sampling, self._told = conn, model, steps, sampling, told
        self.options = {key: value for key, value in options.items() if value is not None}
        self.state, self.error = "ready", ""
        self.notes: list[str] = []
        self.log: list[Step] = []
        self.samples: list[Sample] = []
        self.checkpoints: list[Checkpoint] = []
        self.own: int | None = None  # id of the checkpoint with the state before the start
        self.end: int | None = None  # the model's step at which the run is complete
        self._call = {**self.options, "n_steps": steps}
        self._after = 0  # rows of the log up to this id are read, or older than this training
        self._first = 0  # the model's step at which the run began
        self._from: int | None = None  # and at which the latest call began that may have begun a run
        self._base = -1  # the step from which samples are counted, once that is known
        self._history: int | None = None  # a run that this training continues, whose rows are to be read
        self._calling = False  # a call is running, which another learning rate cuts short
        self._ended = threading.Event()
        self._ended.set()
        self._halt, self._wake, self._turn = threading.Event(), threading.Event(), threading.RLock()
        try:
            with self._opened() as db:
                self.planned = self._plan(db)
                self.rate = self._used = self.planned[0]
                self.step = self._value(db, STEP)
                self._after = self._value(db, LAST)
                self.prompt, self._prefix = self._start_of_samples(db)
                self._list(db)
        except psycopg.Error as error:
            if self._in_transaction():
                raise KitError(self._explained(error)) from None
            raise

    # -- the database ----

    @contextlib.contextmanager
    def _opened(self) -> Iterator[psycopg.Connection]:
        """A connection to the same database, apart from the notebook's."""
        if self._conn is None:
            conn = open_database(session.current().database)
        else:
            info = self._conn.info
            conn = psycopg.connect(info.dsn, password=info.password or None, autocommit=True)
        with contextlib.closing(conn):
            conn.execute(SETTINGS)
            with contextlib.suppress(psycopg.Error):  # not on every system
                conn.execute("SET client_connection_check_interval = '2s'")
            conn.add_notice_handler(self._noticed)
            self._schema = catalog.schema(conn)
            yield conn

    def _rows(self, conn: psycopg.Connection, query: str, **params) -> list[tuple]:
        with conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql.SQL(query).format(self._schema), {"model": self.model, **params})  # type: ignore[arg-type]
            return cursor.fetchall()

    def _value(self, conn: psycopg.Connection, query: str, **params) -> Any:
        return self._rows(conn, query, **params)[0][0]

    def _plan(self, conn: psycopg.Connection) -> tuple:
        """Highest and lowest learning rate, warm-up and dataset, as the server resolves them."""
        names = {**dict.fromkeys(OPTIONS), **self.options}
        return self._rows(conn, PLAN, **names, n_steps=self.steps)[0]

    def _start_of_samples(self, conn: psycopg.Connection) -> tuple[str | list[int] | None, str]:
        """The prompt as llm_generate takes it, and the part of its text that is not shown."""
        self._end_token = end = self._value(conn, "SELECT {0}.llm_end_token(%(model)s)")
        if end is None or self.sampling.prompt is not None:
            return self.sampling.prompt, ""
        return [end], self._value(conn, "SELECT {0}.llm_decode(%(ids)s::int[], %(model)s)", ids=[end])

    def _noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if not text.startswith(("continuing run", "training model")) and text not in self.notes:
            self.notes.append(text)

    # -- what a learner does ----

    def start(self) -> None:
        """Trains on, in the background. Errors: KitError if it is running."""
        with self._turn:
            if self.running and self.state not in OVER:
                raise KitError(f"model {self.model!r} is being trained by this monitor already")
            if self.state in ("ready", "done") or self.end is None:
                self._anew()
            self._ended.wait()  # the thread before may be telling its end
            self._halt.clear()
            self.state, self.error, self.notes = "running", "", []
            self._ended.clear()
            _running.add(self)
            threading.Thread(target=self._work, name=f"train {self.model}", daemon=True).start()
        self._told()

    def stop(self) -> None:
        """Asks the training to stop; steps that are not committed yet are lost."""
        with self._turn:
            if not self.running or self.state in OVER:
                return
            self.state = "stopping"
        self._halt.set()
        self._wake.set()
        self._told()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until nothing is running; False if that took longer than timeout seconds."""
        # Not by Thread.join, which an interrupt makes forget that the thread runs (Python before 3.13).
        return self._ended.wait(timeout)

    def turn(self, rate: float) -> None:
        """Another peak learning rate, from the last commit on, for a run of the steps that are left."""
        if not 0 < rate < float("inf"):
            raise KitError(f"the learning rate is {rate}; it must be above 0")
        self.rate = float(rate)
        self._wake.set()

    def roll_back(self, checkpoint: int | None = None) -> int:
        """Stops, and loads a checkpoint (None: the state before the start); returns its step."""
        self.stop()
        self.wait()
        number = self.own if checkpoint is None else checkpoint
        if number is None:
            raise KitError("nothing was trained by this monitor, so there is nothing to roll back")
        with self._turn, self._opened() as db:
            self.step = self._value(db, "SELECT {0}.llm_checkpoint_load(%(model)s, %(id)s)", id=number)
            self._undo(self.step)
            self._anew()
            self._list(db)
        self.state, self.error = "ready" if number == self.own else "stopped", ""
        self._told()
        return self.step

    @property
    def running(self) -> bool:
        """True while a thread is at work."""
        return not self._ended.is_set()

    @property
    def loss(self) -> float | None:
        """The newest step's loss."""
        kept = self.kept
        return kept[-1].loss if kept else None

    @property
    def kept(self) -> list[Step]:
        """The steps that the model's weights come from."""
        return [row for row in [*self.log] if not row.undone]

    @property
    def speed(self) -> float | None:
        """Tokens a second, over the newest steps."""
        rows = self.log[-20:]
        seconds = sum(row.seconds for row in rows)
        return sum(row.tokens for row in rows) / seconds if seconds else None

    def statements(self) -> str:
        """The statements for a reader: the call of llm_train_loop, and what rolls it back."""
        model = _literal(self.model)
        named = [f"{key} => {_literal(value)}" for key, value in self._call.items() if key != "n_steps"]
        arguments = ", ".join([model, str(self._call["n_steps"]), *named])
        back = f"\n-- roll back\nSELECT llm_checkpoint_load({model}, {self.own});" if self.own else ""
        return f"CALL llm_train_loop({arguments});{back}"

    def _anew(self) -> None:
        """The next call begins a run of all steps, with the learning rate chosen."""
        self._call = {**self.options, "n_steps": self.steps}
        if self.rate != self.planned[0]:
            self._call["lr_max"] = self.rate
        self.end, self._from, self._base = None, None, -1
        self._used = self.rate

    def _undo(self, step: int) -> None:
        self.log = [replace(row, undone=row.undone or row.step > step) for row in self.log]
        self.samples = [replace(row, undone=row.undone or row.step > step) for row in self.samples]

    # -- the threads ----

    def _work(self) -> None:
        """Trains and watches until there is nothing more to do."""
        outcome: list[tuple[str, str]] = []
        try:
            with self._opened() as training, self._opened() as watching:
                worker = threading.Thread(target=lambda: outcome.append(self._train(training)), daemon=True)
                worker.start()
                try:
                    while worker.is_alive():
                        self._wake.wait(LOOK)
                        self._wake.clear()
                        turned = self._calling and self.rate != self._used
                        if worker.is_alive() and (turned or self._halt.is_set()):
                            training.cancel_safe(timeout=5)
                        self._read(watching)
                        self._told()
                finally:
                    self._halt_and_join(training, worker)
                with contextlib.suppress(psycopg.Error):
                    self._read(watching)
                    self._list(watching)
        except (psycopg.Error, PgLlmError) as error:
            if not outcome or not outcome[0][1]:
                outcome[:] = [("failed", _words(error))]
        fault = "the training ended by an error of the monitor itself: see the kernel's own output"
        with self._turn:  # one change, so that nobody is told an error while the state is still "running"
            self.state, self.error = outcome[0] if outcome else ("failed", fault)
        _running.discard(self)
        try:
            self._told()  # before _ended is set: then wait() returns with the view up to date
        finally:
            self._ended.set()

    def _halt_and_join(self, conn: psycopg.Connection, worker: threading.Thread) -> None:
        while worker.is_alive():
            with contextlib.suppress(psycopg.Error):
                conn.cancel_safe(timeout=5)
            worker.join(LOOK)

    def _train(self, conn: psycopg.Connection) -> tuple[str, str]:
        """Trains until the run is complete or is asked to stop; returns the state and an error's text."""
        try:
            self._find_again(conn)
            while not self._halt.is_set():
                try:
                    if not self._advance(conn):
                        return "done", ""
                except psycopg.errors.QueryCanceled:
                    if not self._halt.is_set() and self.rate == self._used:
                        self.notes.append("another session cancelled the training")
                        break
            self._locate(conn)
        except (psycopg.Error, PgLlmError) as error:
            return "failed", self._explained(error)
        return ("done" if self.end is not None and self.step >= self.end else "stopped"), ""

    def _find_again(self, conn: psycopg.Connection) -> None:
        """Another session may have moved the model to another step since this training stopped."""
        before, self.step = self.step, self._value(conn, STEP)
        if self.end is not None and self.step != before:
            self.notes.append(
                f"the model was at step {before} and is at step {self.step} now: a new run begins there"
            )
            self._anew()

    def _advance(self, conn: psycopg.Connection) -> bool:
        """A sample, then the steps up to the next one; False when the run is complete."""
        if self.own is None:
            self.own = self._value(conn, "SELECT {0}.llm_checkpoint_save(%(model)s, %(note)s)", note=NOTE)
            self._list(conn)
        self._locate(conn)
        self._count_from(conn)
        self._sample(conn)
        if self.end is not None and self.step >= self.end:
            return False
        if self.rate != self._used:
            self._rate_changes()
        self._from, self._calling = self.step, True
        try:
            every = self.sampling.every
            self._loop(conn, self._base + ((self.step - self._base) // every + 1) * every)
        finally:
            self._calling = False
        return True

    def _count_from(self, conn: psycopg.Connection) -> None:
        """Samples are counted from where the run began, also if that was before this training."""
        if self._base < 0:
            self._base = self.step
            for _, first, steps in self._rows(conn, RUN):
                self._base = first if first < self.step < first + steps else self.step

    def _locate(self, conn: psycopg.Connection) -> None:
        """The model's step, and the run that led to it."""
        self.step = self._value(conn, STEP)
        if self.end is None and self._from is not None and self.step > self._from:
            run, self._first, steps = self._rows(conn, RUN)[0]
            self.end = self._first + steps
            if self._first < self._from and not self.log:
                self._history = run

    def _rate_changes(self) -> None:
        """The next call is a run of the steps that are left, with what is left of the warm-up."""
        self._used = self.rate
        self._call = {**self._call, "lr_max": self.rate}
        if self.end is not None:
            warmup = self._call.get("warmup", self.planned[2])
            self._call |= {
                "n_steps": self.end - self.step,
                "min_lr": min(self.planned[1], self.rate),
                "warmup": max(0, warmup - (self.step - self._first)),
            }
            self.end = None

    def _loop(self, conn: psycopg.Connection, until: int) -> None:
        call = {**self._call, "notice_every": 0, "until_step": until}
        named = sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(key), sql.Placeholder(key)) for key in call
        )
        query = sql.SQL("CALL {}.llm_train_loop(model => %(model)s, {})").format(self._schema, named)
        conn.execute(query, {**call, "model": self.model})

    def _sample(self, conn: psycopg.Connection) -> None:
        """What the model writes now: at the start, every so many steps, and at the end."""
        kept = [s.step for s in self.samples if not s.undone]
        due = (self.step - self._base) % self.sampling.every == 0
        if self.step in kept or (kept and not due and self.step != self.end):
            return
        chosen, texts, validation = self.sampling, [], None
        for k in range(chosen.draws if self.prompt is not None else 0):
            text = self._value(
                conn,
                "SELECT {0}.llm_generate(%(prompt)s, %(tokens)s, %(temperature)s, model => %(model)s, "
                "eos => %(end)s, seed => %(seed)s)",
                prompt=self.prompt,
                tokens=chosen.tokens,
                temperature=chosen.temperature,
                end=self._end_token,
                seed=chosen.seed + k,
            )
            texts.append(text.removeprefix(self._prefix))
        if chosen.validation is not None:
            query = "SELECT loss FROM {0}.llm_dataset_loss(%(model)s, %(data)s)"
            validation = self._value(conn, query, data=chosen.validation)
        loss = self._value(conn, LOSS, step=self.step)
        self.samples.append(Sample(self.step, tuple(texts), loss, validation))

    def _read(self, conn: psycopg.Connection) -> None:
        """New rows of llm_train_log."""
        history, self._history = self._history, None
        rows = self._rows(conn, LOG, after=self._after, run=history)
        known = {row.id for row in self.log}
        fresh = [Step(*row) for row in rows if row[0] not in known]
        if fresh:
            self.log = sorted([*self.log, *fresh], key=lambda row: row.id)
            self._after, self.step = self.log[-1].id, self.log[-1].step

    def _list(self, conn: psycopg.Connection) -> None:
        rows = self._rows(
            conn,
            "SELECT id, step, coalesce(note, '') FROM {0}.llm_checkpoint WHERE model = %(model)s ORDER BY id",
        )
        self.checkpoints = [Checkpoint(id, step, note, id == self.own) for id, step, note in rows]

    def _explained(self, error: BaseException) -> str:
        hint = "your transaction is open: what it changed is not visible to the training before %sql COMMIT"
        return _words(error) + (f"\nHINT: {hint}" if self._in_transaction() else "")

    def _in_transaction(self) -> bool:
        """True if the learner's connection has an open transaction."""
        with contextlib.suppress(psycopg.Error, PgLlmError):
            conn = session.current().conn if self._conn is None else self._conn
            return conn.info.transaction_status in (
                pq.TransactionStatus.INTRANS,
                pq.TransactionStatus.INERROR,
            )
        return False


def _words(error: BaseException) -> str:
    from pg_llm.notebook.magic import describe

    return str(error) if isinstance(error, PgLlmError) else describe(error)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


_running: weakref.WeakSet[Training] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """The program ends: so do its trainings."""
    for each in [*_running]:
        each.stop()
    for each in [*_running]:
        each.wait(10)
