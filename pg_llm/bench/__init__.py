"""pg-llm bench: how fast the kit is on this machine, beside the peers that are installed.

Every figure is a median of repeated runs with its spread, ours and a peer's taken in turn, so that a noisy
machine disturbs both alike. Ratios, not seconds, are what to compare between machines.

Reading order: report.py (what a figure is), kit.py (what is measured on), timing.py, then a file for each
kind of measurement; peers/ has the other programs, chart.py the picture, command.py the command line.
"""

from pg_llm.bench.command import main

__all__ = ["main"]
