"""The table of `pg-llm bench`: runs the sections, prints text or JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date

import click


@dataclass
class Row:
    """One figure: ours and, where a peer is installed, theirs. ratio above 1 means we are ahead."""

    name: str
    unit: str
    ours: float
    spread: float = 0.0  # half of the interquartile range, as a fraction of the median
    peer: str = ""
    theirs: float | None = None
    smaller_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        if not self.theirs:
            return None
        return self.theirs / self.ours if self.smaller_is_better else self.ours / self.theirs


Section = Callable[[object, int], Iterator[Row]]


def sections() -> dict[str, Section]:
    from pg_llm.bench import machine, model, tokenizer

    return {"machine": machine.rows, "tokenizer": tokenizer.rows, "model": model.rows}


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def line(row: Row) -> str:
    ours = f"{row.ours:10.3g} {row.unit:8}" + (f" ±{row.spread:4.0%}" if row.spread else "      ")
    if row.theirs is None:
        return f"{row.name:44} {ours}" + (f"  ({row.peer})" if row.peer else "")
    return f"{row.name:44} {ours}  {row.peer} {row.theirs:.3g}, ratio {row.ratio:.2f}"


@click.command()
@click.option("--only", multiple=True, help="machine, tokenizer or model; may be given more than once.")
@click.option("--repeats", default=5, show_default=True, help="Runs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(only: tuple[str, ...], repeats: int, as_json: bool) -> None:
    """Measure the kit on this machine.

    Example: pg-llm bench --only machine --repeats 3
    """
    import pg_llm

    known = sections()
    wrong = set(only) - set(known)
    if wrong:
        raise click.BadParameter(f"{', '.join(sorted(wrong))}: choose from {', '.join(known)}")
    report = {"date": date.today().isoformat(), "cpu": cpu_name(), "rows": []}
    if not as_json:
        click.echo(f"{report['cpu']}, {report['date']}")
    with pg_llm.connect(fresh=True) as conn:
        for name in only or known:
            for row in known[name](conn, repeats):
                report["rows"].append(asdict(row) | {"ratio": row.ratio})
                if not as_json:
                    click.echo(line(row))
    if as_json:
        click.echo(json.dumps(report, indent=1))
