"""Figures in notebooks: small files of what matplotlib drew, and text for readers who cannot see them."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.jupyter_kernel import Kernel
from helpers.notebooks import named
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


@pytest.mark.slow
def test_a_figure_that_is_drawn_again_in_place_is_one_output(server):
    kernel = Kernel()
    try:
        assert kernel.run("%load_ext pg_llm\nimport matplotlib.pyplot as plt\n%matplotlib inline").ok
        seen = kernel.run("""
            figure, ax = plt.subplots()
            handle = display(figure, display_id=True)
            for step in range(1, 9):
                ax.clear()
                ax.plot([0, step], [0, 1], label="loss")
                handle.update(figure)
            plt.close()""")
        assert seen.ok, seen.traceback
        kinds = [sorted(each) for each in seen.displays]
        assert kinds == [["image/png", "text/plain"], ["text/html", "text/plain"]]
        assert "line loss from (0, 0) to (8, 1)" in seen.html
        assert kernel.run("1").html == ""
    finally:
        kernel.close()


@named
def test_every_saved_picture_is_small_and_described(path):
    """In the metadata, for nbconvert, and for JupyterLab in a fold, or in the HTML of the same output."""
    for cell in json.loads(path.read_text())["cells"]:
        outputs = cell.get("outputs", [])
        pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
        for output, page in zip(outputs, pages, strict=True):
            for kind in {"image/png", "image/svg+xml"} & {*output.get("data", {})}:
                text = output["metadata"][kind]["alt"]
                assert len(text) > 30, cell["id"]
                if kind == "image/png":
                    png = base64.b64decode(output["data"]["image/png"])
                    assert Image.open(io.BytesIO(png)).mode == "P", cell["id"]
                    folds = [p for p in pages if p.startswith("<details>")]
                    assert any(html.escape(text, quote=False) in fold for fold in folds), cell["id"]
                else:
                    assert page.startswith("<img ") and f"alt={quoteattr(text)}" in page, cell["id"]
