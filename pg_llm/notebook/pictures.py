"""Figures in notebooks: small PNG files, with an alternative text for readers who cannot see them.

The text is stored where IPython.display.Image(alt=…) stores it, in the output's metadata, from which
nbconvert makes the image's alt. JupyterLab ignores that metadata, so the texts of a cell's figures also
follow them, in folds.
"""

from __future__ import annotations

import base64
import html
import io
import os

import numpy as np

COLORS = 256  # size of the palette; no pixel of a plot visibly changes colour
NAMED = 12  # rows, columns or points described one by one
EXTREMES = 4  # values of a large matrix that are described
LONGEST = 1500  # characters of a text
FIGURES = 4  # of a cell that are described one by one

_words: list[str] = []  # of the figures that the running cell has displayed


def register(shell) -> None:
    """Makes a Jupyter kernel display figures in this form; has no effect elsewhere, in a terminal."""
    if "inline" not in os.environ.get("MPLBACKEND", ""):
        return
    from matplotlib.figure import Figure
    from matplotlib_inline.backend_inline import configure_inline_support

    configure_inline_support(shell, "inline")  # else the first figure would do it, and undo the next line
    shell.display_formatter.formatters["image/png"].for_type(Figure, picture)
    shell.events.register("post_run_cell", _show_words)


def _show_words(result=None) -> None:
    """Displays, folded, what the cell's figures show in words; of one that is redrawn the last text."""
    from IPython.display import HTML, display

    texts = list(dict.fromkeys(_words))
    _words.clear()
    for text in texts if len(texts) <= FIGURES else texts[-1:]:
        words = html.escape(text, quote=False)
        display(HTML(f"<details><summary>The picture in words</summary>\n\n{words}\n</details>"))


def picture(figure) -> tuple[str, dict] | None:
    """A figure's PNG in base64 and its metadata, as IPython's formatters return them."""
    from IPython.core.pylabtools import print_figure

    png = print_figure(figure, "png")
    if png is None:  # the figure is empty
        return None
    try:
        text = describe(figure)
    except Exception:  # a reader's own figure may contain anything, and is still shown
        text = ""
    if text:
        _words.append(text)
    return base64.b64encode(small(png)).decode(), {"alt": text} if text else {}


def small(png: bytes) -> bytes:
    """The same picture with a palette, at a third of the size."""
    from PIL import Image

    # Maximum coverage keeps rare colours, such as the ends of a colour map; the median cut would merge them.
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def describe(figure) -> str:
    """Describes a figure in words: titles, axes, and the values drawn."""
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    texts = [figure.get_suptitle(), *(_describe_axes(ax) for ax in axes)]
    text = " ".join(" ".join(part.split()) for part in texts if part)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _describe_axes(ax) -> str:
    title = ax.get_title("left") or ax.get_title()
    drawn = [_image(ax, image) for image in ax.images if image.get_label()]
    drawn += [_bars(ax, bars) for bars in ax.containers if hasattr(bars, "orientation")]
    # Lines across the whole plot have their value in a label next to them.
    drawn += [
        _line(line) for line in ax.lines if len(line.get_xdata()) > 1 and line.get_transform() == ax.transData
    ]
    drawn += [
        f"{len(points.get_offsets())} points" for points in ax.collections if len(points.get_offsets()) > 1
    ]
    words = [text.get_text() for text in ax.texts if text.get_text()]
    if words and not ax.images and not ax.containers:
        drawn.append("labels: " + "; ".join(words))
    axes = " and ".join(f"{name}: {label}" for name, label in _labels(ax) if label)
    return ". ".join(part for part in (title, axes, *drawn) if part) + "."


def _labels(ax):
    return (("across", ax.get_xlabel()), ("up", ax.get_ylabel())) if ax.axison else ()


def _image(ax, image) -> str:
    """The label that the image was given (matplotlib's own begin with _), else its values."""
    label = image.get_label()
    return _heat_map(ax, image) if label.startswith("_") else label


def _heat_map(ax, image) -> str:
    """Describes a small matrix row by row, a larger one by the values farthest from zero."""
    import numpy as np

    values = image.get_array()
    height, width = values.shape[:2]
    rows, columns = _ticks(ax.yaxis, height), _ticks(ax.xaxis, width)
    size = f"heat map of {height} rows and {width} columns"
    if height <= NAMED and width <= NAMED:
        lines = [f"{row}: " + ", ".join(map(_number, line)) for row, line in zip(rows, values, strict=True)]
        return f"{size}; columns {', '.join(columns)}; rows {'; '.join(lines)}"
    order = np.ma.filled(abs(values), -1).argsort(axis=None, kind="stable")[::-1]
    far = [divmod(at, width) for at in order[:EXTREMES]]
    named = "; ".join(f"row {rows[i]}, column {columns[j]}: {_number(values[i, j])}" for i, j in far)
    limits = f"from {_number(values.min())} to {_number(values.max())}"
    return f"{size}, {limits}; farthest from zero: {named}"


def _ticks(axis, n: int) -> list[str]:
    """The labels of the positions 0 … n - 1, or these numbers if there are none."""
    from matplotlib.ticker import ScalarFormatter

    labels = {}
    if not isinstance(axis.get_major_formatter(), ScalarFormatter):
        labels = dict(zip(axis.get_ticklocs(), (t.get_text() for t in axis.get_ticklabels()), strict=True))
    return [labels.get(i) or str(i) for i in range(n)]


def _bars(ax, bars) -> str:
    lying = bars.orientation == "horizontal"
    axis = ax.yaxis if lying else ax.xaxis
    labels = dict(zip(axis.get_ticklocs(), (t.get_text() for t in axis.get_ticklabels()), strict=True))
    parts = []
    for bar in bars:
        middle = bar.get_y() + bar.get_height() / 2 if lying else bar.get_x() + bar.get_width() / 2
        value = bar.get_width() if lying else bar.get_height()
        parts.append(f"{labels.get(round(middle, 6)) or _number(middle)}: {_number(value)}")
    return "bars " + "; ".join(parts)


def _line(line) -> str:
    x, y = line.get_xdata(), line.get_ydata()
    name = "" if line.get_label().startswith("_") else f" {line.get_label()}"
    return f"line{name} from ({_number(x[0])}, {_number(y[0])}) to ({_number(x[-1])}, {_number(y[-1])})"


def _number(value) -> str:
    if np.ma.is_masked(value):
        return "empty"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
