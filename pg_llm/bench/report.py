"""The rows of figures, and the table of them."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field

from pg_llm.bench.timing import Figure

OURS = "pg_llm"


@dataclass
class Row:
    """One figure: ours, the peers', and the machine's limit (bound, in the same unit)."""

    name: str
    unit: str
    ours: float
    spread: float = 0.0  # half of the interquartile range, as a fraction of the median
    peers: dict[str, list[float]] = field(default_factory=dict)  # name -> median, spread
    bound: float | None = None
    bound_name: str = ""
    target: str = ""
    smaller_is_better: bool = False

    @property
    def of_bound(self) -> float | None:
        """The fraction of the machine's limit."""
        if not self.bound:
            return None
        return self.bound / self.ours if self.smaller_is_better else self.ours / self.bound

    @property
    def ratios(self) -> dict[str, float]:
        """The speed relative to each peer."""
        ours = self.ours
        return {
            name: (theirs / ours if self.smaller_is_better else ours / theirs)
            for name, (theirs, _) in self.peers.items()
        }

    def as_json(self) -> dict:
        """All fields, with fractions and ratios; four digits are more than the spread justifies."""
        found = asdict(self)
        found["of_bound"] = self.of_bound
        found["ratios"] = self.ratios
        return _rounded({key: value for key, value in found.items() if value not in (None, "", {}, False)})


def row(name: str, unit: str, figures: dict[str, Figure], **more) -> Row:
    """A row of figures by name, of which OURS is ours."""
    ours = figures[OURS]
    peers = {peer: [*figure] for peer, figure in figures.items() if peer != OURS}
    return Row(name, unit, ours.value, ours.spread, peers, **more)


def rates(name: str, unit: str, amount: float, times: dict[str, Figure], **more) -> Row:
    """A row of amounts per second, from the seconds that each took."""
    return row(name, unit, {who: figure.rate(amount) for who, figure in times.items()}, **more)


def line(row: Row) -> str:
    """The row as text: name, our figure and spread, fraction of the bound, peers and the ratio to each."""
    parts = [
        f"{row.name:46}",
        f"{number(row.ours):>8} {row.unit:9}",
        f"{row.spread:5.0%}" if row.spread else " " * 5,
    ]
    if row.of_bound:
        parts.append(f"{row.of_bound:4.0%} of {row.bound_name}")
    ratios = row.ratios
    parts += [f"{name} {number(value)} (x{ratios[name]:.2f})" for name, (value, _) in row.peers.items()]
    if row.target:
        parts.append(f"[target {row.target}]")
    return "  ".join(parts).rstrip()


def number(value: float) -> str:
    """A number with three digits and no exponent.

    >>> number(1398.2), number(0.0123), number(21.04)
    ('1398', '0.0123', '21')
    """
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text else text


def cpu_name() -> str:
    """The processor's model name."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value
