"""The machine's peak and the matmul kernel as a fraction of it, beside PyTorch and NumPy."""

from __future__ import annotations

from collections.abc import Iterator

from pg_llm.bench.report import Row
from pg_llm.bench.timing import in_turn, summary

# (M, K, N) of GPT-2 small: qkv, feed-forward in and out, a short prompt, one token and its logits
SHAPES = [
    (512, 768, 2304),
    (1024, 768, 3072),
    (1024, 3072, 768),
    (64, 768, 3072),
    (1, 768, 3072),
    (1, 768, 50257),
]


def rows(conn, repeats: int) -> Iterator[Row]:
    peaks = [conn.execute("SELECT * FROM llm_measure_peak()").fetchone() for _ in range(max(2, repeats // 2))]
    threads, gflops, read = peaks[0][0], max(p[1] for p in peaks), max(p[2] for p in peaks)
    yield Row(f"multiply-add peak, {threads} threads", "GFLOP/s", gflops)
    yield Row("memory read", "GB/s", read)
    for m, k, n in SHAPES:
        yield matmul(conn, repeats, m, k, n, gflops, read)


def matmul(conn, repeats: int, m: int, k: int, n: int, gflops: float, read: float) -> Row:
    speeds = []

    def ours():
        query = "SELECT llm_measure_matmul(%s, %s, %s, 5)"
        speeds.append(conn.execute(query, (m, k, n)).fetchone()[0])

    peer, theirs = peer_matmul(m, k, n)
    times = in_turn(repeats, ours, theirs)
    middle, spread = summary(speeds[1:])
    if m == 1:
        share = f"{4 * k * n / (2 * k * n / middle) / read:.0%} of the read bandwidth"
    else:
        share = f"{middle / gflops:.0%} of peak"
    row = Row(f"matmul {m} x {k} x {n}, {share}", "GFLOP/s", middle, spread, peer)
    if times[1]:
        row.theirs = 2 * m * k * n / times[1][0] / 1e9
    return row


def peer_matmul(m: int, k: int, n: int):
    try:
        import torch
    except ImportError:
        return "", None
    a, b = torch.rand(m, k), torch.rand(k, n)
    return "PyTorch", lambda: torch.mm(a, b)
