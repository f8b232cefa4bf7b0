"""What a saved notebook keeps of a widget: its static picture.

JupyterLab saves a widget's output without the widget's state, and shows "Error displaying widget" when the
notebook is opened again. As an extension of the Jupyter server, this module leaves out the reference to the
live widget when a notebook is saved; then the picture in the same output is shown, with its alternative text.
"""

from __future__ import annotations

VIEW = "application/vnd.jupyter.widget-view+json"
MARK = "pg-llm-static"  # the class of the kit's static pictures


def keep_pictures(notebook: dict) -> int:
    """Removes references to live widgets that have a picture beside them; returns how many."""
    removed = 0
    for cell in notebook.get("cells", []):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VIEW in data and MARK in "".join(data.get("text/html", "")):
                del data[VIEW]
                removed += 1
    return removed


def before_saving(model: dict, **rest) -> None:
    """A pre-save hook of the Jupyter server."""
    if model.get("type") == "notebook" and isinstance(model.get("content"), dict):
        keep_pictures(model["content"])


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "pg_llm.notebook.saving"}]


def _load_jupyter_server_extension(app) -> None:
    app.contents_manager.register_pre_save_hook(before_saving)
