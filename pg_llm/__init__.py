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
    "activations": "notebook.frames",
    "attention": "notebook.frames",
    "check": "notebook.exercises",
    "connect": "server.database",
    "explain": "plots.roofline",
    "gradients": "notebook.frames",
    "load_model": "files.importer",
    "load_tokenizer": "files.tokenizer",
    "params": "notebook.frames",
    "plot_attention": "plots.plots",
    "plot_bigrams": "plots.plots",
    "plot_gradients": "plots.plots",
    "plot_loss": "plots.plots",
    "plot_losses": "plots.plots",
    "plot_next_tokens": "plots.plots",
    "plot_paths": "plots.plots",
    "plot_points": "plots.plots",
    "plot_roofline": "plots.roofline",
    "plot_tape": "plots.tape_plot",
    "plot_tensor": "plots.plots",
    "practice_model": "notebook.fallback_model",
    "sql": "notebook.frames",
    "tape": "notebook.frames",
    "train_log": "notebook.frames",
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
    from pg_llm.notebook.magic import load_ipython_extension as load

    load(ipython)
