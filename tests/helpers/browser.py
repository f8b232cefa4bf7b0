"""JupyterLab in headless Chromium: a page with a notebook that tests operate by keyboard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from helpers.paths import REPO
from helpers.ports import free_port
from pg_llm.notebook.lab import environment, options

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SHOTS = REPO / "build" / "screenshots"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
RUNNING, CURRENT = ".jp-NotebookPanel:not(.lm-mod-hidden) ", ".jp-Cell.jp-mod-active"


def chromium():
    """A running browser; skips the test where Chromium or Playwright is missing."""
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    sync = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    return sync.sync_playwright()


@contextlib.contextmanager
def lab(folder: Path, home: Path) -> Iterator[str]:
    """JupyterLab on a folder of notebooks, started as `pg-llm lab` does; yields its address."""
    port = free_port()
    own = {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        **environment(),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")])),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", *options(folder)]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
    ]
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lab.log", "w") as log:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{address}/api", timeout=5):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((home / "lab.log").read_text()[-3000:]) from None
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def choose_theme(home: Path, theme: str) -> None:
    """Writes JupyterLab's settings: the theme of the next page."""
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": THEMES[theme]}))
    # Cells outside the window stay in the page, where the tests find them.
    notebook = home / "settings" / "@jupyterlab" / "notebook-extension"
    notebook.mkdir(parents=True, exist_ok=True)
    (notebook / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))


def write(path: Path, cells: list[str]) -> None:
    """A notebook of code cells without outputs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Page:
    """A notebook in JupyterLab; console holds the page's errors."""

    def __init__(self, page, address: str, notebook: str):
        self.page = page
        self.console: list[str] = []
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("console", lambda m: self.console.append(m.text) if m.type == "error" else None)
        page.goto(f"{address}/lab/workspaces/{time.monotonic_ns()}/tree/{notebook}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_selector(
            ".jp-NotebookPanel-toolbar [data-status=idle]", timeout=60_000, state="attached"
        )
        page.get_by_text("| Idle").first.wait_for(timeout=60_000)  # the kernel has started

    def idle(self, timeout: float = 180) -> None:
        """Waits until no cell is running or queued."""
        deadline = time.monotonic() + timeout
        quiet = 0
        while quiet < 3:
            busy = self.page.evaluate(
                "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                ".filter(n => n.textContent.includes('[*]')).length"
            )
            quiet = 0 if busy else quiet + 1
            assert time.monotonic() < deadline, "cells are still running"
            time.sleep(0.15)

    def first_cell(self) -> None:
        """Selects the first cell, in command mode."""
        self.page.locator(".jp-Notebook .jp-Cell .jp-InputPrompt").first.click()
        self.page.keyboard.press("Escape")
        for _ in range(3):
            self.page.keyboard.press("Control+Home")

    def run_cells(self, count: int) -> None:
        """Runs the next cells, each with Shift+Enter."""
        for _ in range(count):
            self.page.keyboard.press("Shift+Enter")
            self.page.wait_for_timeout(150)
            self.idle()

    def widget(self, kind: str, index: int = 0):
        """A live widget of a kind (prompt, attention, tokenizer, architecture), scrolled into view."""
        found = self.page.locator(f".pgl-{kind}").nth(index)
        found.wait_for(timeout=30_000)
        found.scroll_into_view_if_needed()
        return found

    def shot(self, name: str, what=None) -> Path:
        """A screenshot below build/screenshots, of an element or of the window."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        (what or self.page).screenshot(path=path)
        return path

    def theme(self, name: str) -> None:
        """Switches JupyterLab to its light or dark theme."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", THEMES[name]
        )
        light = str(name == "light").lower()
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        self.page.wait_for_timeout(600)

    def save(self) -> None:
        """Saves the notebook."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def errors(self) -> list[str]:
        """What went wrong in the page's own JavaScript."""
        return [text for text in self.console if "Failed to load resource" not in text]


def until(truth, timeout: float = 15, what: str = "it did not happen") -> None:
    """Waits until truth() holds."""
    deadline = time.monotonic() + timeout
    while not truth():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
