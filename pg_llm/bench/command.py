"""The command line of pg-llm bench: selection of measurements, and output of the figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from datetime import date
from fnmatch import fnmatch
from pathlib import Path

import click

from pg_llm.bench.report import Row, cpu_name, line

Measurement = Callable[..., Iterator[Row]]


def measurements() -> dict[str, Measurement]:
    """The measurements by name, in the order of the table."""
    from pg_llm.bench import growth, images, inference, machine, serving, storage, tokenizer, training

    return {
        "peak": machine.peak,
        "matmul": machine.forward,
        "matmul-backward": machine.backward,
        "tokenizer": tokenizer.tokenizer,
        "import": storage.imports,
        "prefill": inference.prefill,
        "decode": inference.decode,
        "batch": inference.batch,
        "first-token": inference.first_token,
        "next-tokens": serving.next_tokens,
        "sessions": serving.sessions,
        "trace": storage.traces,
        "training": training.small,
        "training-small": training.tiny,
        "denoising": images.denoising,
        "training-images": images.training,
        "growth": growth.growth,
    }


def chosen(patterns: tuple[str, ...], known: dict[str, Measurement]) -> list[str]:
    """The names that the patterns match, all without patterns. Errors: click.BadParameter."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            raise click.BadParameter(f"nothing matches {pattern}: choose from {', '.join(known)}")
    return [name for name in known if not patterns or any(fnmatch(name, p) for p in patterns)]


def machine(kit) -> dict:
    """The machine and the versions with which the figures were made."""
    from pg_llm import __version__
    from pg_llm.bench.peers import versions

    return {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "threads": kit.threads,
        "postgresql": kit.one("SHOW server_version").split()[0],
        "python": platform.python_version(),
        "pg_llm": __version__,
        "quick": kit.quick,
        "peers": versions() if kit.with_peers else {},
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="A measurement, or a pattern like 'matmul*'; may be repeated.",
)
@click.option("--list", "names", is_flag=True, help="Name the measurements and leave.")
@click.option(
    "--quick", is_flag=True, help="Two layers, short texts, two repeats: everything in some minutes."
)
@click.option("--repeats", default=5, show_default=True, help="Runs of each figure.")
@click.option("--no-peers", is_flag=True, help="Measure the kit alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write the JSON to this file, and a picture beside it (.svg).",
)
@click.option(
    "--draw", type=click.Path(path_type=Path, exists=True), help="Measure nothing; draw a saved file again."
)
def main(only, names, quick, repeats, no_peers, as_json, save, draw) -> None:
    """Measure the kit on this machine, beside the peers that are installed (pip install 'pg-llm[bench]').

    \b
    Example: pg-llm bench --quick
    Example: pg-llm bench --only prefill --only decode
    Example: pg-llm bench --save pg_llm/bench/results.json
    """
    from pg_llm.bench.chart import draw_file

    known = measurements()
    if draw:
        return click.echo(f"drew {draw_file(draw)}")
    wanted = chosen(only, known)
    if names:
        return click.echo("\n".join(wanted))
    report = measure(wanted, known, repeats, quick, not no_peers, silent=as_json)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    if save:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(as_text(report), "utf-8")
        click.echo(f"wrote {save} and {draw_file(save)}", err=as_json)


def measure(wanted, known, repeats: int, quick: bool, with_peers: bool, silent: bool) -> dict:
    """Runs the measurements; rows are printed as they are measured unless silent."""
    from pg_llm.bench.kit import Kit

    with Kit(repeats, quick, with_peers) as kit:
        report = machine(kit) | {"rows": []}
        if not silent:
            click.echo("{cpu}, {threads} threads, {date}".format(**report))
        for name in wanted:
            for row in known[name](kit):
                report["rows"].append({"measurement": name, **row.as_json()})
                if not silent:
                    click.echo(line(row))
    return report


def as_text(report: dict) -> str:
    """The report as JSON, one row per line, so that a new report is a small diff."""
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in report["rows"])
    head = json.dumps(
        {key: value for key, value in report.items() if key != "rows"}, indent=1, ensure_ascii=False
    )
    return head.removesuffix("\n}") + f',\n "rows": [\n  {rows}\n ]\n}}\n'
