"""What a class notices: the latency of a whole statement, and twenty sessions on one model at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import psutil

from pg_llm.bench.kit import Kit, anonymous, proportional
from pg_llm.bench.report import OURS, Row, row
from pg_llm.bench.timing import in_turn
from pg_llm.bench.training import CLASSROOM

SESSIONS = 20
TOKENS = 24  # length of a generation: with its prompt it fits a context of 128


def classroom_model(kit: Kit) -> str:
    """A random model of the classroom model's shape, whose tokens are bytes."""
    name = "bench-classroom"
    if not kit.one("SELECT 1 FROM llm_model_config WHERE model = %s", (name,)):
        kit.make_model(name, CLASSROOM, kit.byte_tokenizer(name))
    return name


def next_tokens(kit: Kit) -> Iterator[Row]:
    """Latency of SELECT * FROM llm_next_tokens(...) for a client, plain and prepared."""
    query = "SELECT * FROM llm_next_tokens('Once upon a time there was', 10, %s)"
    name = classroom_model(kit)

    def run(prepare: bool):
        kit.conn.execute(query, (name,), prepare=prepare).fetchall()

    for how, prepare in (("", False), (", prepared", True)):
        times = in_turn(50 * kit.repeats, {OURS: partial(run, prepare)})
        yield row(
            f"llm_next_tokens, classroom model{how}", "ms", {OURS: times[OURS].times(1e3)},
            smaller_is_better=True, target="1 ms",
        )  # fmt: skip


def sessions(kit: Kit) -> Iterator[Row]:
    """Tokens per second of twenty sessions together, and of one alone; their memory; the slowest session."""
    alone = Crowd(kit, kit.model, 1)
    speed, _ = alone.run(kit.long)
    own = alone.anonymous
    alone.close()
    # if each session has private weights, as many sessions as fit
    room = int(psutil.virtual_memory().available * 0.6 / max(own, 1)) if own else SESSIONS
    count = max(2, min(4 if kit.quick else SESSIONS, room))
    crowd = Crowd(kit, kit.model, count)
    together, fairness = crowd.run(kit.long)
    weights = 4 * kit.matmul_weights()
    many = f"{count} sessions, {kit.size}"
    yield Row(
        f"{many}, tokens/s together", "tokens/s", together, bound=speed, bound_name="one session's",
        target="95 %",
    )  # fmt: skip
    yield Row(f"{many}, slowest against fastest", "", fairness, target="none starved")
    if crowd.proportional:
        ratio = crowd.proportional / weights
        yield Row(f"{many}, memory over the weights'", "", ratio, smaller_is_better=True, target="2")
    crowd.close()


class Crowd:
    """Sessions that generate at the same time."""

    def __init__(self, kit: Kit, model: str, count: int):
        self.model, self.count = model, count
        self.sessions = [kit.connect() for _ in range(count)]
        self.query = "SELECT llm_generate(%s, %s, 0, model => %s, eos => -1)"
        for session in self.sessions:
            session.execute(self.query, ("Hello", 1, self.model))
        pids = [s.info.backend_pid for s in self.sessions] if kit.is_local() else []
        self.anonymous = max(map(anonymous, pids), default=0)
        self.proportional = sum(map(proportional, pids))

    def run(self, long: float) -> tuple[float, float]:
        """Tokens per second of all sessions in `long` seconds; the slowest's tokens over the fastest's."""
        done, stop = [0] * self.count, time.perf_counter() + long

        def work(i: int):
            while time.perf_counter() < stop:
                self.sessions[i].execute(self.query, (f"Pupil {i} asks", TOKENS, self.model))
                done[i] += TOKENS

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self.count)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - start), min(done) / max(done)

    def close(self) -> None:
        """Closes every session."""
        for session in self.sessions:
            session.close()
