"""pg_llm: GPT-2 inside PostgreSQL, every weight and activation a row.

In a notebook: %load_ext pg_llm. In a program: pg_llm.connect(). Names are loaded when first used, so that
`import pg_llm` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers read in place of __getattr__
    from pg_llm.client import PGLLMClient as PGLLMClient
    from pg_llm.course.check import check as check
    from pg_llm.course.progress import plot_progress as plot_progress
    from pg_llm.course.progress import progress as progress
    from pg_llm.errors import KitError as KitError
    from pg_llm.errors import PgLlmError as PgLlmError
    from pg_llm.files.adapter import register as register
    from pg_llm.files.adapter import register_async as register_async
    from pg_llm.files.column import Tensor as Tensor
    from pg_llm.files.hub import download as download
    from pg_llm.files.importer import load_model as load_model
    from pg_llm.files.lora import load_adapter as load_adapter
    from pg_llm.files.lora import save_adapter as save_adapter
    from pg_llm.files.tokenizer import load_tokenizer as load_tokenizer
    from pg_llm.files.tokenizer import save_tokenizer as save_tokenizer
    from pg_llm.notebook.broken_models import broken_models as broken_models
    from pg_llm.notebook.broken_models import retrain as retrain
    from pg_llm.notebook.fallback_model import practice_model as practice_model
    from pg_llm.notebook.frames import activations as activations
    from pg_llm.notebook.frames import attention as attention
    from pg_llm.notebook.frames import gradients as gradients
    from pg_llm.notebook.frames import params as params
    from pg_llm.notebook.frames import sql as sql
    from pg_llm.notebook.frames import tape as tape
    from pg_llm.notebook.frames import train_log as train_log
    from pg_llm.notebook.names import load_names as load_names
    from pg_llm.plots.gradient_plots import plot_decision as plot_decision
    from pg_llm.plots.gradient_plots import plot_gradients as plot_gradients
    from pg_llm.plots.gradient_plots import plot_paths as plot_paths
    from pg_llm.plots.images import plot_images as plot_images
    from pg_llm.plots.plots import plot_attention as plot_attention
    from pg_llm.plots.plots import plot_bigrams as plot_bigrams
    from pg_llm.plots.plots import plot_loss as plot_loss
    from pg_llm.plots.plots import plot_losses as plot_losses
    from pg_llm.plots.plots import plot_next_tokens as plot_next_tokens
    from pg_llm.plots.plots import plot_points as plot_points
    from pg_llm.plots.plots import plot_tensor as plot_tensor
    from pg_llm.plots.roofline import explain as explain
    from pg_llm.plots.roofline import plot_roofline as plot_roofline
    from pg_llm.plots.tape_plot import plot_tape as plot_tape
    from pg_llm.server.database import connect as connect
    from pg_llm.widgets.architecture import architecture as architecture
    from pg_llm.widgets.attention import attention_explorer as attention_explorer
    from pg_llm.widgets.embeddings import embedding_map as embedding_map
    from pg_llm.widgets.lens import logit_lens as logit_lens
    from pg_llm.widgets.monitor import training_monitor as training_monitor
    from pg_llm.widgets.prompt import prompt_box as prompt_box
    from pg_llm.widgets.tape import tape_stepper as tape_stepper
    from pg_llm.widgets.tokens import tokenizer_view as tokenizer_view

__version__ = "0.1.0"

# public name -> module that defines it
_WHERE = {
    "KitError": "errors",
    "PGLLMClient": "client",
    "PgLlmError": "errors",
    "Tensor": "files.column",
    "activations": "notebook.frames",
    "architecture": "widgets.architecture",
    "attention": "notebook.frames",
    "attention_explorer": "widgets.attention",
    "broken_models": "notebook.broken_models",
    "check": "course.check",
    "connect": "server.database",
    "download": "files.hub",
    "embedding_map": "widgets.embeddings",
    "explain": "plots.roofline",
    "gradients": "notebook.frames",
    "load_adapter": "files.lora",
    "load_model": "files.importer",
    "load_names": "notebook.names",
    "load_tokenizer": "files.tokenizer",
    "logit_lens": "widgets.lens",
    "params": "notebook.frames",
    "plot_attention": "plots.plots",
    "plot_bigrams": "plots.plots",
    "plot_decision": "plots.gradient_plots",
    "plot_gradients": "plots.gradient_plots",
    "plot_images": "plots.images",
    "plot_loss": "plots.plots",
    "plot_losses": "plots.plots",
    "plot_next_tokens": "plots.plots",
    "plot_paths": "plots.gradient_plots",
    "plot_points": "plots.plots",
    "plot_roofline": "plots.roofline",
    "plot_progress": "course.progress",
    "plot_tape": "plots.tape_plot",
    "plot_tensor": "plots.plots",
    "practice_model": "notebook.fallback_model",
    "progress": "course.progress",
    "prompt_box": "widgets.prompt",
    "register": "files.adapter",
    "register_async": "files.adapter",
    "retrain": "notebook.broken_models",
    "save_adapter": "files.lora",
    "save_tokenizer": "files.tokenizer",
    "sql": "notebook.frames",
    "tape": "notebook.frames",
    "tape_stepper": "widgets.tape",
    "tokenizer_view": "widgets.tokens",
    "train_log": "notebook.frames",
    "training_monitor": "widgets.monitor",
}

__all__ = sorted([*_WHERE, "load_ipython_extension"])


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f"pg_llm.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'pg_llm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


def load_ipython_extension(ipython) -> None:
    """%load_ext pg_llm: starts or finds the server and gives its connection to %%sql."""
    from pg_llm.course import magic
    from pg_llm.notebook.magic import load_ipython_extension as load
    from pg_llm.widgets import magic as widgets

    load(ipython)
    magic.register(ipython)
    widgets.register()
