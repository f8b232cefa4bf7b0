"""A Jupyter kernel for tests: run(cell) returns what a reader of the notebook would see."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

from jupyter_client.manager import start_new_kernel


@dataclass
class Seen:
    """The output of a cell: printed text, results as text and HTML, and the error if there was one."""

    printed: str = ""
    result: str = ""
    html: str = ""
    error: str = ""
    message: str = ""
    traceback: str = ""
    ok: bool = True
    seconds: float = 0.0
    displays: list = field(default_factory=list)


class Kernel:
    """One kernel; close() ends it."""

    def __init__(self, cwd: str | None = None, **environment):
        environment = {**os.environ, **environment}
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment, cwd=cwd)

    def run(self, cell: str, timeout: float = 60, interrupt_after: float | None = None) -> Seen:
        """Runs a cell; interrupts it with Ctrl-C after interrupt_after seconds, if given."""
        seen = Seen()
        started = time.monotonic()
        if interrupt_after is not None:
            threading.Timer(interrupt_after, self.manager.interrupt_kernel).start()
        reply = self.client.execute_interactive(cell, timeout=timeout, output_hook=lambda m: _note(seen, m))
        seen.seconds = time.monotonic() - started
        seen.ok = reply["content"]["status"] == "ok"
        return seen

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def _note(seen: Seen, message: dict) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        seen.printed += content["text"]
    elif message["msg_type"] == "error":
        seen.error, seen.message = content["ename"], content["evalue"]
        seen.traceback = "\n".join(content["traceback"])
    elif message["msg_type"] in ("execute_result", "display_data"):
        seen.displays.append(content["data"])
        seen.result = content["data"].get("text/plain", "")
        seen.html = content["data"].get("text/html", "")
