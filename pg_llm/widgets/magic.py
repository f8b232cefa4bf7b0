"""%pg_llm train: the training monitor as a command."""

from __future__ import annotations

from typing import Any

from IPython.core.error import UsageError

from pg_llm.notebook.magic import COMMANDS


def register() -> None:
    """Defines %pg_llm train."""
    COMMANDS["train"] = train


def train(model: str, steps: str, /, **options: Any):
    """Starts a training in the background and shows its monitor; in a terminal, waits for it.

    options: those of pg_llm.training_monitor. Returns the monitor: monitor = %pg_llm train my_model 400
    """
    from pg_llm.widgets.base import kernel
    from pg_llm.widgets.monitor import training_monitor

    if not steps.isdigit():
        raise UsageError(f"%pg_llm train: STEPS is a whole number, not {steps}")
    try:
        monitor = training_monitor(model, int(steps), **options)
    except TypeError as error:
        raise UsageError(f"%pg_llm train: {error}") from None
    monitor.start()
    return monitor if kernel() else monitor.wait()
