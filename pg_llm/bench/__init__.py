"""pg-llm bench: how fast the kit is on this machine, beside the peers that are installed (torch, tiktoken).

Every figure is a median of repeated runs with its spread, ours and a peer's taken in turn, so that a noisy
machine disturbs both alike. Ratios, not seconds, are what to compare between machines.
"""

from pg_llm.bench.report import main

__all__ = ["main"]
