"""The machine's peak, and the matrix product as a fraction of it: forward, and both its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from pg_llm.bench.kit import Kit
from pg_llm.bench.peers import installed
from pg_llm.bench.report import OURS, Row, row
from pg_llm.bench.timing import seconds

# (M, K, N) of GPT-2 small: qkv, feed-forward in and out, a short prompt, one token and its logits
FORWARD = [
    (512, 768, 2304),
    (1024, 768, 3072),
    (1024, 3072, 768),
    (64, 768, 3072),
    (1, 768, 3072),
    (1, 768, 50257),
]
PRODUCTS = {"forward": "x @ w", "dx": "dy @ w^T", "dw": "x^T @ dy"}
BACKWARD = [(256, 768, 3072), (1024, 768, 3072), (1024, 3072, 768)]


def peak(kit: Kit) -> Iterator[Row]:
    """The multiply-add peak and the read bandwidth of this machine."""
    threads, gflops, read = kit.machine
    yield Row(f"multiply-add peak, {threads} threads", "GFLOP/s", gflops)
    yield Row("memory read", "GB/s", read)


def forward(kit: Kit) -> Iterator[Row]:
    """GFLOP/s of the matrix products of a forward pass."""
    for m, k, n in FORWARD[3:5] if kit.quick else FORWARD:
        target = "" if m == 1 else "75 % of peak" if m < 512 else "85 % of peak"
        yield product(kit, m, k, n, "forward", target)


def backward(kit: Kit) -> Iterator[Row]:
    """GFLOP/s of the matrix products of a backward pass."""
    for m, k, n in BACKWARD[:1] if kit.quick else BACKWARD:
        for form in ("dx", "dw"):
            yield product(kit, m, k, n, form, "78 % of peak")


def best_rate(amount: float, action: Callable[[], object]) -> float:
    """The amount per second in the best of five repetitions."""
    return amount / min(seconds(action) for _ in range(5))


def product(kit: Kit, m: int, k: int, n: int, form: str, target: str) -> Row:
    """GFLOP/s of x (m,k) @ w (k,n), dx = dy @ w^T or dw = x^T @ dy; each the best of five."""
    query = "SELECT llm_measure_matmul(%s, %s, %s, 5, %s)"
    measures: dict[str, Callable[[], float]] = {OURS: lambda: kit.one(query, (m, k, n, form))}
    for name, multiply in rivals(kit, m, k, n, form).items():
        measures[name] = partial(best_rate, 2e-9 * m * k * n, multiply)
    figures, bound = kit.beside("read_gb_s" if m == 1 else "fma_gflops", measures)
    # with one row, each weight is read for two operations: memory is the bound
    bound, of = (bound / 2, "read bandwidth") if m == 1 else (bound, "peak")
    name = f"matmul {PRODUCTS[form]}, {m} x {k} x {n}"
    return row(name, "GFLOP/s", figures, bound=bound, bound_name=of, target=target)


def rivals(kit: Kit, m: int, k: int, n: int, form: str) -> dict:
    """The same product in NumPy (its BLAS) and PyTorch."""
    if not kit.with_peers:
        return {}
    random = np.random.default_rng(0)
    x, w, dy = (random.random(s, np.float32) - 0.5 for s in ((m, k), (k, n), (m, n)))
    a, b = {"forward": (x, w), "dx": (dy, w.T), "dw": (x.T, dy)}[form]
    found = {"NumPy": lambda: np.matmul(a, b)}
    if installed("torch"):
        import torch

        torch.set_num_threads(kit.threads)
        s, t = torch.from_numpy(a), torch.from_numpy(b)
        found["PyTorch"] = lambda: torch.mm(s, t)
    return found
