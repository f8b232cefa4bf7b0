"""A training step: forward, backward, AdamW; beside PyTorch eager with fused AdamW. And its memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from pg_llm import classroom
from pg_llm.bench.kit import Kit, anonymous
from pg_llm.bench.peers import Shape, installed
from pg_llm.bench.report import OURS, Row, row
from pg_llm.bench.timing import Figure, summary

MODEL = "bench-training"
# Number of alternations: a machine's speed changes within minutes, and then affects both alike.
ROUNDS = 3
CLASSROOM = Shape(4, *(classroom.recipe()["model"][k] for k in ("n_head", "d_model", "n_positions", "vocab")))
TINY = Shape(4, 4, 128, 64, 512)


def small(kit: Kit) -> Iterator[Row]:
    """Tokens per second at GPT-2 small's shape, and the memory used."""
    shapes = [(1, 64)] if kit.quick else [(4, 64), (1, 512), (1, 1024)]
    for B, T in shapes:
        figures, memory = steps(kit, kit.shape, B, T, 2)
        speeds = {name: figure.rate(B * T) for name, figure in figures.items()}
        yield row(
            f"training, {kit.size}, batch {B} x {T}", "tokens/s", speeds,
            bound=kit.machine[1] / token_gflop(kit, kit.shape, T), bound_name="peak", target="60 % of peak",
        )  # fmt: skip
        if memory and (B, T) in ((1, 512), (1, 64)):
            name = f"memory of training, {kit.size}, batch {B} x {T}"
            yield Row(name, "GB", memory / 1e9, smaller_is_better=True, target="3 GB")


def tiny(kit: Kit) -> Iterator[Row]:
    """Milliseconds per step of models that a class trains live."""
    cases = {
        "4 layers of 128, batch 8 x 64": (TINY, 8, 64),
        "classroom model, batch 16 x 128": (CLASSROOM, 16, 128),
    }
    for name, (shape, B, T) in cases.items():
        figures, _ = steps(kit, shape, B, T, 20)
        yield row(
            f"training step, {name}", "ms", {n: f.times(1e3) for n, f in figures.items()},
            bound=1e3 * B * T * token_gflop(kit, shape, T) / kit.machine[1], bound_name="peak",
            smaller_is_better=True, target="45 % of peak",
        )  # fmt: skip


def token_gflop(kit: Kit, shape: Shape, T: int) -> float:
    """Operations per token of a step: two per weight and attended element, once forward, twice backward."""
    return (6 * kit.matmul_weights(shape) + shape.n_layer * 6 * shape.d_model * (T + 1)) / 1e9


def steps(kit: Kit, shape: Shape, B: int, T: int, n: int) -> tuple[dict[str, Figure], int]:
    """Seconds per step, ours (from llm_train_log) and PyTorch's, n of each per round; our peak memory.

    The first step of each round does not count: it fills caches and allocates. Earlier writes of weights and
    moments are on disk by then.
    """
    kit.make_model(MODEL, shape)
    kit.conn.execute("DELETE FROM llm_dataset WHERE dataset = %s", (MODEL,))
    kit.conn.execute(
        "INSERT INTO llm_dataset (dataset, tokens, target) SELECT %s, t, t FROM (SELECT array_agg("
        "(i * 7919 + r * 104729) %% %s) FROM generate_series(1, %s) AS i, generate_series(1, %s) AS r "
        "GROUP BY r) AS rows(t)",
        (MODEL, shape.vocab, T, B),
    )
    query = (
        "SELECT llm_train(%s, %s, dropout_p => 0, lr_max => 1e-4, warmup => 1, batch_size => %s, "
        "dataset => %s, notice_every => 0)"
    )
    times: dict[str, list[float]] = {OURS: []}
    trainer = torch_trainer(kit, shape, B, T)
    memory = 0
    for _ in range(1 if kit.quick else ROUNDS):
        kit.settle()
        with MemoryWatch(kit) as watch:
            kit.one(query, (MODEL, n + 1, B, MODEL))
        memory = max(memory, watch.most)
        log = "SELECT seconds FROM llm_train_log WHERE model = %s ORDER BY id DESC LIMIT %s"
        times[OURS] += [s for (s,) in kit.conn.execute(log, (MODEL, n)).fetchall()]
        if trainer:
            kit.settle()
            times.setdefault("PyTorch", []).extend(trainer(n))
    kit.drop_model(MODEL)
    return {name: summary(values) for name, values in times.items()}, memory


def torch_trainer(kit: Kit, shape: Shape, B: int, T: int):
    """A function that makes n steps and returns the seconds of each; None if PyTorch is not installed."""
    if not kit.with_peers or not installed("torch"):
        return None
    from pg_llm.bench.peers.lean import Torch
    from pg_llm.bench.timing import seconds

    step = Torch(shape, None, kit.threads).trainer(B, T)

    def run(n: int) -> list[float]:
        step()
        return [seconds(step) for _ in range(n)]

    return run


class MemoryWatch:
    """The peak private memory of the server process during the block; 0 if unknown."""

    def __init__(self, kit: Kit):
        self.pid = kit.conn.info.backend_pid if kit.is_local() else None
        self.most = 0

    def __enter__(self) -> MemoryWatch:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=[self.pid], daemon=True)
        if self.pid:
            self._thread.start()
        return self

    def _watch(self, pid: int) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, anonymous(pid))

    def __exit__(self, *error) -> None:
        self._done.set()
        if self.pid:
            self._thread.join()
