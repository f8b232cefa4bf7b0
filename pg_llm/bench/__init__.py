"""pg-llm bench: measures the kit on this machine, beside the installed peers.

Every figure is a median of repeated measurements with its spread, ours and a peer's alternately, so that a
noisy machine disturbs both alike. Compare ratios between machines, not seconds.

Reading order: report.py (figures and rows), kit.py (database, models and peers), timing.py, then a file for
each kind of measurement; peers/ contains the other programs, chart.py the chart, command.py the command line.
"""

from pg_llm.bench.command import main

__all__ = ["main"]
