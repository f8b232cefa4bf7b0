"""pg_llm: GPT-2 inside PostgreSQL, every weight and activation a row.

In a notebook: %load_ext pg_llm. In a program: pg_llm.connect(). Names are loaded when first used, so that
`import pg_llm` costs nothing.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# public name -> module that defines it
_WHERE = {
    "KitError": "errors",
    "PGLLMClient": "client",
    "activations": "frames",
    "attention": "frames",
    "check": "exercises",
    "connect": "database",
    "explain": "costs",
    "gradients": "frames",
    "load_model": "importer",
    "load_tokenizer": "ingest",
    "params": "frames",
    "plot_attention": "plots",
    "plot_bigrams": "plots",
    "plot_gradients": "plots",
    "plot_loss": "plots",
    "plot_losses": "plots",
    "plot_next_tokens": "plots",
    "plot_paths": "plots",
    "plot_points": "plots",
    "plot_roofline": "costs",
    "plot_tape": "tape_plot",
    "plot_tensor": "plots",
    "practice_model": "practice",
    "sql": "frames",
    "tape": "frames",
    "train_log": "frames",
}

__all__ = sorted([*_WHERE, "load_ipython_extension"])


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f"pg_llm.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'pg_llm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


def load_ipython_extension(ipython) -> None:
    """%load_ext pg_llm: starts or finds the server and hands its connection to %%sql."""
    from pg_llm.magic import load_ipython_extension as load

    load(ipython)
