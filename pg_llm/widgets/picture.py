"""SVG whose colours have names: a static picture uses fixed ones, a live one those of the page."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from pg_llm.notebook.saving import MARK

# name -> colour on the light paper of a static picture; widget.css gives the same names for both themes
PALETTE = {
    "ink": "#1f2933",
    "muted": "#5d6975",
    "line": "#8a949e",
    "faint": "#d9dee3",
    "paper": "#fbfbf8",
    "box": "#ffffff",
    "blue": "#0072b2",
    "orange": "#c24e00",
    "weights": "#dcebf6",
    "attention": "#fbe3d2",
    "norm": "#ddf1e8",
    "bend": "#f8efc4",
    "plain": "#eef0f2",
}
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
LETTER = 0.603  # width of a monospaced letter, in font sizes


class Picture:
    """An SVG of some width; height grows with what is drawn. Coordinates are pixels from the top left.

    live: colours are CSS variables of the page around the picture, which has no paper of its own.
    """

    def __init__(self, width: float, live: bool = False):
        self.width, self.height, self.live = width, 0.0, live
        self.parts: list[str] = []

    def colour(self, name: str) -> str:
        """A colour of the palette, or another one as it is."""
        if name not in PALETTE:
            return name
        return f"var(--pgl-{name}, {PALETTE[name]})" if self.live else PALETTE[name]

    def text(self, x: float, y: float, text: str, *, size: float = 13, colour: str = "ink",
             bold: bool = False, mono: bool = False, anchor: str = "start") -> None:  # fmt: skip
        """Text whose base line is y; anchor: start, middle or end."""
        style = f' font-family="{MONO}"' * mono + ' font-weight="600"' * bold
        self.add(
            f'<text x="{n(x)}" y="{n(y)}" font-size="{n(size)}" fill="{self.colour(colour)}" '
            f'text-anchor="{anchor}" xml:space="preserve"{style}>{escape(text)}</text>',
            y + 6,
        )

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str = "box", line: str = "",
             round: float = 4, dashed: bool = False, more: str = "") -> None:  # fmt: skip
        """A rectangle; line: the colour of its border."""
        border = f' stroke="{self.colour(line)}"' if line else ""
        border += ' stroke-dasharray="4 3"' * dashed
        self.add(
            f'<rect x="{n(x)}" y="{n(y)}" width="{n(width)}" height="{n(height)}" rx="{n(round)}" '
            f'fill="{self.colour(fill)}"{border}{more}/>',
            y + height,
        )

    def path(self, d: str, *, line: str = "line", width: float = 1.4, dashed: bool = False,
             fill: str = "none", opacity: float = 1) -> None:  # fmt: skip
        """A path in SVG's notation."""
        more = ' stroke-dasharray="4 3"' * dashed + (f' opacity="{n(opacity)}"' if opacity < 1 else "")
        self.add(
            f'<path d="{d}" fill="{self.colour(fill)}" stroke="{self.colour(line)}" '
            f'stroke-width="{n(width)}"{more}/>'
        )

    def wave(self, x: float, y: float, width: float) -> None:
        """The underline of an unknown word."""
        steps = max(2, round(width / 4))
        step = width / steps
        arcs = "".join(f" q{n(step / 2)} {-3 if i % 2 else 3} {n(step)} 0" for i in range(steps))
        self.path(f"M{n(x)} {n(y)}{arcs}", line="orange")

    def add(self, part: str, bottom: float = 0) -> None:
        """A piece of SVG that reaches down to bottom."""
        self.parts.append(part)
        self.height = max(self.height, bottom)

    def svg(self, description: str) -> str:
        """The whole picture, with its description for readers who cannot see it."""
        w, h = n(self.width), n(self.height + 14)
        paper = f'<rect width="{w}" height="{h}" rx="6" fill="{PALETTE["paper"]}" stroke="#dcdcd6"/>'
        # The live picture holds nodes to be reached one by one, so it is no single image.
        name = 'role="group"' if self.live else f'role="img" aria-label="{escape(description)}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
            f'{name} font-family="{FONT}">' + paper * (not self.live) + "".join(self.parts) + "</svg>"
        )


def figure(svg: str, description: str) -> str:
    """HTML that shows an SVG as an image with an alternative text.

    An img also appears in notebooks that are not trusted, from which JupyterLab removes SVG elements.
    """
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure class="{MARK}" style="margin:0"><img style="max-width:100%" '
        f'alt="{escape(description)}" src="data:image/svg+xml;base64,{data}"></figure>'
    )


class Drawn:
    """An SVG and its description, as a cell's result and as a file."""

    def __init__(self, svg: str, description: str):
        self.svg, self.description = svg, description

    def save(self, path: str | Path) -> None:
        """Writes the SVG to a file."""
        Path(path).write_text(self.svg + "\n", encoding="utf-8")

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": self.description, "text/html": figure(self.svg, self.description)}

    def __repr__(self) -> str:
        return self.description


def n(value: float) -> str:
    """A number of at most two decimals, the same on every machine."""
    return f"{round(float(value), 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def shown(token: str) -> str:
    """A token with its space made visible, and characters that would break a line replaced."""
    marks = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(marks.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in token)


def percent(share: float) -> str:
    """A probability as text, to three digits.

    >>> percent(0.5), percent(0.001234), percent(0)
    ('50 %', '0.123 %', '0 %')
    """
    value = 100 * share
    digits = 0 if value >= 99.95 or value == 0 else 1 if value >= 10 else 2 if value >= 1 else 3
    text = f"{value:.{digits}f}"
    if value and float(text) == 0:
        return "< 0.001 %"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"
