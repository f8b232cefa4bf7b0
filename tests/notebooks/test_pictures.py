"""Figures in notebooks: small files of what matplotlib drew, and text for readers who cannot see them."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from unittest import mock

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.notebooks import named
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

import pg_llm
from pg_llm.notebook import pictures

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_heat_map_keeps_its_colours_and_says_its_values():
    pg_llm.plot_tensor(np.linspace(-1, 1, 20 * 30).reshape(20, 30), "noise")
    file = io.BytesIO()
    plt.gcf().savefig(file)
    before, after = (
        Image.open(io.BytesIO(png)) for png in (file.getvalue(), pictures.small(file.getvalue()))
    )
    assert after.mode == "P" and len(pictures.small(file.getvalue())) < len(file.getvalue()) / 2
    before, after = (np.asarray(image.convert("RGB"), int) for image in (before, after))
    assert np.abs(before - after).max() <= 24
    text = pictures.describe(plt.gcf())
    assert text.startswith(
        "noise. heat map of 20 rows and 30 columns, from -1 to 1; farthest from zero: row "
    )
    assert {"row 19, column 29: 1", "row 0, column 0: -1"} <= set(
        re.findall("row [0-9]+, column [0-9]+: -?1", text)
    )


def test_a_small_matrix_is_read_out():
    pg_llm.plot_tensor([[1, 0], [0.25, -3]], "drinks", ["tea", "coffee"], ["sweet", "hot"])
    text = pictures.describe(plt.gcf())
    assert text.endswith("columns sweet, hot; rows tea: 1, 0; coffee: 0.25, -3.")


def test_bars_are_named_with_their_values():
    pg_llm.plot_next_tokens(pd.DataFrame({"token": [" cat", " dog"], "probability": [0.75, 0.125]}), "next")
    assert pictures.describe(plt.gcf()).endswith("bars ' cat': 0.75; ' dog': 0.125.")


def test_lines_have_ends():
    _, ax = plt.subplots()
    ax.plot([0, 5, 10], [4, 3, 2.5], label="loss")
    ax.set_xlabel("step")
    assert pictures.describe(ax.figure) == "across: step. line loss from (0, 4) to (10, 2.5)."


def test_a_figure_that_has_no_words_is_shown():
    plt.imshow(np.zeros((4, 4, 3)))  # colours, not values
    png, metadata = pictures.picture(plt.gcf())
    assert base64.b64decode(png).startswith(b"\x89PNG") and metadata == {}


def test_a_live_picture_and_its_words_are_replaced_in_place():
    shell = InteractiveShell.instance()
    with mock.patch.object(shell.display_pub, "publish") as publish:
        live = pictures.Live()
        for title in ("10 steps", "20 steps"):
            pg_llm.plot_losses(pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]}), title=title)
            live.show(plt.gcf())
    calls = [call.kwargs for call in publish.call_args_list]
    ids = [call["transient"]["display_id"] for call in calls]
    assert ids[:2] == ids[2:] and len(set(ids)) == 2
    assert [call.get("update", False) for call in calls] == [False, False, True, True]
    assert (
        "20 steps" in calls[2]["metadata"]["image/png"]["alt"] and "20 steps" in calls[3]["data"]["text/html"]
    )


@named
def test_every_saved_picture_is_small_and_described(path):
    """In the metadata, for nbconvert, and in the next output, for JupyterLab."""
    for cell in json.loads(path.read_text())["cells"]:
        outputs = cell.get("outputs", [])
        for i, output in enumerate(outputs):
            for kind in {"image/png", "image/svg+xml"} & {*output.get("data", {})}:
                if kind == "image/png":
                    png = base64.b64decode(output["data"]["image/png"])
                    assert Image.open(io.BytesIO(png)).mode == "P", cell["id"]
                text = output["metadata"][kind]["alt"]
                assert len(text) > 30, cell["id"]
                folded = "".join(outputs[i + 1]["data"]["text/html"])
                assert folded.startswith("<details>") and html.escape(text, quote=False) in folded, cell["id"]
