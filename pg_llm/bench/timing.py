"""Timing in turn: a median and a spread for each of several things measured alternately."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(repeats: int, *actions: Callable[[], object] | None) -> list[tuple[float, float] | None]:
    """(median seconds, spread) of each action; each runs once before it counts. None stays None."""
    for action in actions:
        if action:
            action()
    times = [[seconds(action) if action else 0.0 for action in actions] for _ in range(repeats)]
    return [
        summary(list(column)) if action else None
        for action, column in zip(actions, zip(*times, strict=True), strict=True)
    ]


def summary(values: list[float]) -> tuple[float, float]:
    """Median, and half the interquartile range as a fraction of it."""
    middle = statistics.median(values)
    if len(values) < 2:
        return middle, 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / 2 / middle if middle else 0.0
