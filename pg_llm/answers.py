"""What the notebooks' exercises ask for: EXERCISES["01.2"] is the second exercise of notebook 01."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Exercise:
    """right(answer) decides; near holds (test, hint) pairs for answers that are wrong in a telling way."""

    right: Callable
    praise: str
    near: tuple = ()
    hint: str = "Open the hint under the exercise, change one thing, and run the cell again."


def close(expected: float, tolerance: float = 1e-3) -> Callable:
    """A test for a number, allowing for rounding."""
    return lambda value: math.isclose(float(value), expected, rel_tol=tolerance, abs_tol=tolerance)


def equals(expected) -> Callable:
    """A test for a value; text is compared without surrounding spaces."""
    return lambda value: (value.strip() if isinstance(value, str) else value) == expected


EXERCISES: dict[str, Exercise] = {}
