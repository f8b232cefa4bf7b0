"""Alternating measurement: a median and a spread for each of several things."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple


class Figure(NamedTuple):
    """A median, and half of the interquartile range as a fraction of it."""

    value: float
    spread: float = 0.0

    def times(self, factor: float) -> Figure:
        """The same in another unit."""
        return Figure(self.value * factor, self.spread)

    def rate(self, amount: float) -> Figure:
        """The amount per second, if the figure is the seconds it takes."""
        return Figure(amount / self.value, self.spread)


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(repeats: int, actions: Mapping[str, Callable[[], object]]) -> dict[str, Figure]:
    """Seconds that each action takes; after one warm-up each, all of them in turn."""
    return values_in_turn(repeats, {name: partial(seconds, action) for name, action in actions.items()})


def values_in_turn(repeats: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, Figure]:
    """The same for functions that return their own figure."""
    for measure in measures.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: summary(values) for name, values in found.items()}


def summary(values: list[float]) -> Figure:
    """Median and spread of some values.

    >>> summary([1.0, 2.0, 3.0, 4.0, 5.0])
    Figure(value=3.0, spread=0.3333333333333333)
    """
    middle = statistics.median(values)
    if len(values) < 2:
        return Figure(middle)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(middle, (high - low) / 2 / middle if middle else 0.0)
