"""The figures as one picture: peers and the machine's bound relative to pg_llm, and how the cost grows.

The SVG is written directly, so that the same figures give the same file everywhere.
"""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path

from pg_llm.bench.report import number

WIDTH, LEFT, RIGHT, LINE = 900, 330, 120, 21
OURS, BOUND = "#336791", "#444"
COLORS = ["#c8622a", "#3f8f4f", "#8a5aa8", "#b8a01f", "#4aa3b5", "#888", "#c2185b", "#6d4c41"]
LOW, HIGH = 0.05, 4.0  # limits of the axis, as multiples of pg_llm's speed


def draw_file(path: Path) -> Path:
    """Draws a saved JSON file; returns the path of the SVG file next to it."""
    picture = path.with_suffix(".svg")
    picture.write_text(draw(json.loads(path.read_text("utf-8"))), "utf-8")
    return picture


def draw(report: dict) -> str:
    """The report of `pg-llm bench` as SVG."""
    rows = [r for r in report["rows"] if (r.get("peers") or r.get("bound")) and "growth" not in r["name"]]
    names = list(dict.fromkeys(peer for r in rows for peer in r.get("peers", {})))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    top = 64
    parts = [_text(0, 16, f"{report['cpu']}, {report['threads']} threads, {report['date']}", bold=True)]
    parts += _legend(color, 38)
    for i, row in enumerate(rows):
        parts += _row(row, top + 18 + i * LINE, color)
    bottom = top + len(rows) * LINE + 8
    parts += _axis(top, bottom)
    growing, height = _growth([r for r in report["rows"] if r["name"].startswith("growth")], bottom + 46)
    parts += growing
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {WIDTH + 20} {height}" '
        f'font-family="sans-serif" font-size="12">\n<rect x="-10" width="{WIDTH + 20}" height="{height}" '
        'fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _place(times: float) -> float:
    """The axis position of a speed that is this many times pg_llm's."""
    part = math.log(min(max(times, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _row(row: dict, y: float, color: dict[str, str]) -> list[str]:
    parts = [_text(LEFT - 12, y + 4, row["name"], anchor="end")]
    parts.append(_text(WIDTH - RIGHT + 12, y + 4, f"{number(row['ours'])} {row['unit']}", bold=True))
    parts.append(_line(_place(LOW), y, _place(HIGH), y, "#eee"))
    if "bound" in row:
        x = _place(1 / row["of_bound"])
        parts.append(_line(x, y - 7, x, y + 7, BOUND, 2))
    parts.append(_dot(_place(1), y, OURS, 6))
    parts += [_dot(_place(1 / ratio), y, color[peer], 5) for peer, ratio in row.get("ratios", {}).items()]
    return parts


def _axis(top: float, bottom: float) -> list[str]:
    parts = [_line(_place(1), top, _place(1), bottom, OURS, 1)]
    for times in (0.1, 0.25, 0.5, 1, 2, 4):
        parts.append(_text(_place(times), bottom + 14, f"{times:g} x", anchor="middle", fill="#666"))
    label = "speed as a multiple of pg_llm's; a bar is what the machine would allow"
    parts.append(_text((_place(LOW) + _place(HIGH)) / 2, bottom + 30, label, anchor="middle", fill="#666"))
    return parts


def _legend(color: dict[str, str], y: float) -> list[str]:
    parts, x = [], 0
    for name, fill in {"pg_llm": OURS, **color}.items():
        parts.append(_dot(x + 6, y - 4, fill, 5))
        parts.append(_text(x + 16, y, name))
        x += 34 + 7 * len(name)
    return parts


def _growth(rows: list[dict], top: float) -> tuple[list[str], float]:
    """A small line chart with logarithmic axes for each thing that grows; and where the charts end."""
    groups: dict[str, list[tuple[float, float]]] = {}
    units = {}
    for row in rows:
        what, size = row["name"].removeprefix("growth with ").split(", ")
        groups.setdefault(what, []).append((float(size), row["ours"]))
        units[what] = row["unit"]
    parts: list[str] = []
    wide = WIDTH / max(len(groups), 1)
    for i, (what, points) in enumerate(groups.items()):
        parts += _curve(points, f"{units[what]} with {what}", i * wide + 30, top + 20, wide - 70, 90)
    return parts, top + (150 if groups else 0)


def _curve(points, title: str, x: float, y: float, width: float, height: float) -> list[str]:
    logs = [(math.log(a), math.log(b)) for a, b in points]
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*logs, strict=True))
    spare = max(0.0, math.log(4) - (high - low)) / 2  # a nearly constant series should look flat
    low, high = low - spare, high + spare
    places = [
        (
            x + width * (a - left) / ((right - left) or 1),
            y + height - height * (b - low) / ((high - low) or 1),
        )
        for a, b in logs
    ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    parts = [_text(x, y - 10, title, bold=True)]
    parts.append(f'<polyline points="{path}" fill="none" stroke="{OURS}" stroke-width="2"/>')
    for (size, value), (a, b) in zip(points, places, strict=True):
        parts.append(_dot(a, b, OURS, 3))
        parts.append(_text(a, y + height + 16, f"{size:g}", anchor="middle", fill="#666"))
        parts.append(_text(a + 6, b + 4, number(value), fill="#444", size=10))
    return parts


def _text(x, y, text: str, anchor="start", fill="#222", bold=False, size=12) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}"{weight}>'
        f"{escape(text)}</text>"
    )


def _dot(x, y, fill: str, radius: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="white" stroke-width="0.8"/>'


def _line(x1, y1, x2, y2, stroke: str, width=1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
        f'stroke-width="{width}"/>'
    )
