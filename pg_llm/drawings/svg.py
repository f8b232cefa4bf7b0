"""The primitives of explanatory drawings: boxes, texts, arrows, matrices and brackets in one SVG."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

BLUE, ORANGE, GREY, INK, PAPER = "#0072B2", "#D55E00", "#8a949e", "#1f2933", "#fbfbf8"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
Point = tuple[float, float]


class Box(NamedTuple):
    """Where a box or matrix is; arrows go from and to the middles of its sides."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        """The middle of its left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        """The middle of its right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        """The middle of its top side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        """The middle of its bottom side."""
        return self.x + self.width / 2, self.y + self.height


def shade(share: float, colour: str = BLUE) -> str:
    """The colour mixed with white: 0 is white, 1 the colour itself; negative shares mix ORANGE.

    >>> shade(0), shade(1), shade(-1)
    ('#ffffff', '#0072b2', '#d55e00')
    """
    part = min(1.0, abs(share))
    base = ORANGE if share < 0 else colour
    mixed = (round(255 + (int(base[k : k + 2], 16) - 255) * part) for k in (1, 3, 5))
    return "#" + "".join(f"{value:02x}" for value in mixed)


class Drawing:
    """A drawing on light paper of its own; coordinates are pixels from the top left corner.

    description: the alternative text, which screen readers speak: what the drawing shows, numbers included.
    A notebook shows a Drawing that a cell returns. Errors: ValueError without a description. Example:

        d = Drawing(420, 150, "A query and a key meet in a score of 2.", title="One score")
        q = d.matrix(90, 50, [[1, 0]], rows=["query"])
        k = d.matrix(90, 100, [[2, 1]], rows=["key"])
        s = d.box(270, 62, 110, 36, "score 2", fill=BLUE)
        d.arrow(q.right, s.left)
        d.arrow(k.right, s.left, bend=12)
    """

    def __init__(self, width: float, height: float, description: str, title: str = ""):
        if not description.strip():
            raise ValueError("Drawing: a description is needed, for readers who cannot see the drawing")
        self.width, self.height, self.description, self.title = width, height, description.strip(), title
        self._parts: list[str] = []
        if title:
            self.text(14, 23, title, size=15, bold=True, anchor="start")

    def text(self, x: float, y: float, text: str, *, size: float = 13, colour: str = INK, turn: float = 0,
             anchor: str = "middle", bold: bool = False, mono: bool = False) -> None:  # fmt: skip
        """Text on the base line y, a line for each line feed; anchor start, middle or end; turn: degrees."""
        style = f' font-family="{MONO}"' if mono else ""
        style += ' font-weight="600"' if bold else ""
        style += f' transform="rotate({_n(turn)} {_n(x)} {_n(y)})"' if turn else ""
        for k, line in enumerate(str(text).split("\n")):
            self._add(
                f'<text x="{_n(x)}" y="{_n(y + 1.25 * size * k)}" font-size="{_n(size)}" fill="{colour}" '
                f'text-anchor="{anchor}" xml:space="preserve"{style}>{escape(line)}</text>'
            )

    def box(self, x: float, y: float, width: float, height: float, label: str = "", *, fill: str = "#e8f1f8",
            line: str = BLUE, size: float = 13, mono: bool = False, dashed: bool = False) -> Box:  # fmt: skip
        """A box with a label in its middle; the label is white on a dark fill."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._add(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="4" '
            f'fill="{fill}" stroke="{line}"{dash}/>'
        )
        lines = label.count("\n")
        middle = y + height / 2 + 0.35 * size - 0.625 * size * lines
        if label:
            self.text(x + width / 2, middle, label, size=size, colour=_ink_on(fill), mono=mono)
        return Box(x, y, width, height)

    def line(self, start: Point, end: Point, *, colour: str = INK, width: float = 1.4, bend: float = 0,
             dashed: bool = False) -> None:  # fmt: skip
        """A line; bend: how many pixels its middle leaves the straight one, to the left of its direction."""
        cx, cy = _control(start, end, bend)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._add(
            f'<path d="M{_n(start[0])} {_n(start[1])} Q{_n(cx)} {_n(cy)} {_n(end[0])} {_n(end[1])}" '
            f'fill="none" stroke="{colour}" stroke-width="{_n(width)}"{dash}/>'
        )

    def arrow(self, start: Point, end: Point, label: str = "", *, colour: str = INK, width: float = 1.4,
              bend: float = 0, dashed: bool = False, both: bool = False) -> None:  # fmt: skip
        """A line with a head at its end (both: at its start too), straight or bent, and a label beside it."""
        control = _control(start, end, bend)
        size = 6 + 1.2 * width
        tips = [(end, control)] + [(start, control)] * both
        shaft = [_towards(tip, back, size * 0.8) for tip, back in tips] + [start] * (not both)
        self.line(shaft[1], shaft[0], colour=colour, width=width, bend=bend, dashed=dashed)
        for tip, back in tips:
            angle = math.atan2(tip[1] - back[1], tip[0] - back[0])
            corners = [(tip[0] - size * math.cos(angle + t), tip[1] - size * math.sin(angle + t))
                       for t in (0.42, -0.42)]  # fmt: skip
            points = " ".join(f"{_n(x)},{_n(y)}" for x, y in (tip, *corners))
            self._add(f'<polygon points="{points}" fill="{colour}"/>')
        if label:
            x, y = (start[0] + end[0] + 2 * control[0]) / 4, (start[1] + end[1] + 2 * control[1]) / 4
            self.text(x, y - 6, label, size=12, colour=colour)

    def matrix(self, x: float, y: float, values, *, cell: float = 38, height: float = 30,
               rows: Sequence[str] = (), columns: Sequence[str] = (), title: str = "", digits: int = 2,
               limit: float = 0, colour: str = BLUE, size: float = 12,
               numbers: bool = True) -> Box:  # fmt: skip
        """Cells with their values: blue above zero, orange below; None is an empty, hatched cell.

        values: rows of numbers (or of texts, which get no colour). limit: the value of the full colour;
        0: the largest. rows, columns: labels on the left and above. numbers: whether values are written.
        """
        table = [list(row) for row in values]
        known = [abs(v) for row in table for v in row if v is not None and not isinstance(v, str)]
        limit = limit or max(known, default=0) or 1
        for i, row in enumerate(table):
            for j, value in enumerate(row):
                text, fill = "", "#ffffff"
                if isinstance(value, str):
                    text = value
                elif value is None:
                    fill = "#e3e3df"
                else:
                    fill = shade(0.85 * float(value) / limit, colour)
                    text = f"{float(value):.{digits}f}".replace("-", "−") if numbers else ""
                self._add(
                    f'<rect x="{_n(x + j * cell)}" y="{_n(y + i * height)}" width="{_n(cell)}" '
                    f'height="{_n(height)}" fill="{fill}" stroke="#b8c0c8" stroke-width="0.8"/>'
                )
                left, top = x + j * cell, y + i * height
                if value is None:
                    end = left + cell - 4, top + 4
                    self.line((left + 4, top + height - 4), end, colour="#b0b5ba", width=1)
                elif text:
                    self.text(left + cell / 2, top + height / 2 + 0.35 * size, text, size=size,
                              colour=_ink_on(fill))  # fmt: skip
        for i, label in enumerate(rows):
            self.text(x - 6, y + (i + 0.5) * height + 4, label, size=size, anchor="end")
        for j, label in enumerate(columns):
            self.text(x + (j + 0.5) * cell, y - 6, label, size=size)
        box = Box(x, y, cell * max(map(len, table), default=0), height * len(table))
        if title:
            above = 8 if not columns else 24
            self.text(x + box.width / 2, y - above, title, size=13, bold=True)
        return box

    def heat(self, x: float, y: float, values, *, cell: float = 5, colour: str = BLUE) -> Box:
        """Small cells without numbers or lines, white at 0 and the full colour at 1; None is grey."""
        paths: dict[str, list[str]] = {}
        table = [["#e3e3df" if v is None else shade(round(20 * float(v)) / 20, colour) for v in row]
                 for row in values]  # fmt: skip
        for i, row in enumerate(table):
            j = 0
            for fill, run in groupby(row):
                long = len(list(run))
                if fill != "#ffffff":
                    paths.setdefault(fill, []).append(f"M{j} {i}h{long}v1h-{long}z")
                j += long
        box = Box(x, y, cell * max(map(len, table), default=0), cell * len(table))
        size = f'width="{_n(box.width)}" height="{_n(box.height)}"'
        self._add(f'<rect x="{_n(x)}" y="{_n(y)}" {size} fill="#ffffff"/>')
        self._add(f'<g transform="translate({_n(x)} {_n(y)}) scale({_n(cell)})">')
        for fill in sorted(paths):
            self._add(f'<path d="{"".join(paths[fill])}" fill="{fill}"/>')
        self._add("</g>")
        self.line((x, y), (x + box.width, y), colour="#b8c0c8", width=0.8)
        self.line((x, y), (x, y + box.height), colour="#b8c0c8", width=0.8)
        return box

    def scale(self, x: float, y: float, label: str = "", *, colour: str = BLUE) -> None:
        """The legend of heat's colours, 130 pixels wide, from 0 to 1."""
        for k in range(11):
            place = f'x="{_n(x + 10 * k)}" y="{_n(y)}" width="10" height="10"'
            self._add(f'<rect {place} fill="{shade(k / 10, colour)}" stroke="#b8c0c8" stroke-width="0.5"/>')
        self.text(x - 5, y + 9, "0", size=11, anchor="end")
        self.text(x + 115, y + 9, "1", size=11, anchor="start")
        if label:
            self.text(x + 55, y + 24, label, size=11)

    def bracket(self, start: Point, end: Point, label: str = "", *, depth: float = 8,
                colour: str = GREY, size: float = 12) -> None:  # fmt: skip
        """A bracket between two points, open to the left of its direction; the label on its other side."""
        length = math.dist(start, end) or 1
        nx, ny = (end[1] - start[1]) / length * -depth, (end[0] - start[0]) / length * depth
        points = [start, (start[0] + nx, start[1] + ny), (end[0] + nx, end[1] + ny), end]
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self._add(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        if label:
            x, y = (start[0] + end[0]) / 2 + 1.9 * nx, (start[1] + end[1]) / 2 + 1.9 * ny
            anchor = "middle" if abs(nx) < abs(ny) else "start" if nx > 0 else "end"
            self.text(x, y + 0.35 * size, label, size=size, anchor=anchor)

    @contextmanager
    def group(self, x: float, y: float) -> Iterator[Drawing]:
        """What is drawn in the with block is moved by (x, y); the boxes it returns have inner coordinates."""
        self._add(f'<g transform="translate({_n(x)} {_n(y)})">')
        try:
            yield self
        finally:
            self._add("</g>")

    def svg(self) -> str:
        """The whole drawing as an SVG element: the same bytes for the same drawing."""
        w, h, name = _n(self.width), _n(self.height), quoteattr(self.description)
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
            f'role="img" aria-label={name} font-family="{FONT}" style="max-width:100%;height:auto">',
            f"<title>{escape(self.title or self.description)}</title>",
            f"<desc>{escape(self.description)}</desc>",
            f'<rect width="{w}" height="{h}" rx="6" fill="{PAPER}" stroke="#dcdcd6"/>',
            *self._parts,
            "</svg>",
        ])  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes the SVG to a file."""
        Path(path).write_text(self.svg() + "\n", encoding="utf-8")

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """What a notebook shows and keeps: the picture, and its description as alternative text."""
        # JupyterLab shows no SVG of a notebook that was not run yet, but an image in HTML.
        source = base64.b64encode(self.svg().encode()).decode()
        name = quoteattr(self.description)
        image = f'<img style="max-width:100%" alt={name} src="data:image/svg+xml;base64,{source}">'
        return (
            {"image/svg+xml": self.svg(), "text/html": image, "text/plain": self.description},
            {"image/svg+xml": {"alt": self.description}},
        )

    def __repr__(self) -> str:
        return f"Drawing({self.description!r})"

    def _add(self, part: str) -> None:
        self._parts.append(part)


def _n(value: float) -> str:
    """A number of at most two decimals, the same on every machine."""
    return f"{round(float(value), 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _ink_on(fill: str) -> str:
    """Black or white, whichever is easier to read on that colour."""
    red, green, blue = (int(fill[k : k + 2], 16) for k in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def _control(start: Point, end: Point, bend: float) -> Point:
    """The control point of the curve whose middle is `bend` pixels beside the straight line."""
    length = math.dist(start, end) or 1
    across = (end[1] - start[1]) / length, (start[0] - end[0]) / length
    return (start[0] + end[0]) / 2 + 2 * bend * across[0], (start[1] + end[1]) / 2 + 2 * bend * across[1]


def _towards(start: Point, end: Point, distance: float) -> Point:
    """The point at that distance from start, on the way to end."""
    part = distance / (math.dist(start, end) or 1)
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part
