"""Drawings of notebook 18: what a stack of windows reaches, and sublayers in turn and side by side."""

from __future__ import annotations

import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing, shade


def windows(mask: pd.DataFrame, position: int) -> Drawing:
    """The tokens that one position of the top layer depends on, layer by layer.

    mask: columns layer, query, key, a row for each pair that a layer allows; layer 0 is the lowest. Errors:
    ValueError where the top layer has no such position.
    """
    layers = sorted({int(layer) for layer in mask["layer"]}, reverse=True)
    reached = [{position}]
    for layer in layers:
        rows = mask[(mask["layer"] == layer) & mask["query"].isin(list(reached[-1]))]
        reached.append({int(key) for key in rows["key"]})
    if not reached[1]:
        raise ValueError(f"windows: layer {layers[0]} has no position {position}")
    longest = int(max(mask["key"].max(), position)) + 1
    cell, left, tall = 34, 130, 62
    said = "; ".join(
        f"layer {layer} reads {len(keys)} at {min(keys)} to {max(keys)}"
        for layer, keys in zip(layers, reached[1:], strict=True)
    )
    d = Drawing(
        left + longest * cell + 20, 70 + tall * len(reached),
        f"What position {position} depends on: {said}.", "Each layer reaches further back",
    )  # fmt: skip
    for level, keys in enumerate(reached):
        y = 44 + tall * level
        name = "result" if level == 0 else f"into layer {layers[level - 1]}"
        d.text(left - 12, y + 20, name, size=12, anchor="end")
        for at in range(longest):
            d.box(left + at * cell, y, cell - 5, 29, str(at), fill=shade(0.75) if at in keys else "#ffffff",
                  line=BLUE if at in keys else GREY, size=11)  # fmt: skip
        if level:
            rows = mask[(mask["layer"] == layers[level - 1]) & mask["query"].isin(list(reached[level - 1]))]
            for query, key in zip(rows["query"], rows["key"], strict=True):
                middle = left + (cell - 5) / 2
                d.line(
                    (middle + query * cell, y - tall + 29), (middle + key * cell, y), colour=ORANGE, width=1
                )
    below = "blue: tokens that count; orange: pairs that a layer allows"
    d.text(left, 58 + tall * len(reached), below, size=11, anchor="start", colour="#555")
    return d


def sublayers() -> Drawing:
    """A block of GPT-2, attention then MLP, and a parallel one, in which both read the same stream."""
    d = Drawing(
        760, 250,
        "Two blocks. In GPT-2, attention reads the stream and adds its result, then the MLP reads that sum "
        "and adds its own. In a parallel block, attention and MLP read the stream at the same place, and "
        "both results are added.",
        "One after the other, and side by side",
    )  # fmt: skip
    for left, title, parallel in ((20, "GPT-2", False), (400, "GPT-J, GPT-NeoX", True)):
        d.text(left + 4, 54, title, size=13, bold=True, anchor="start")
        base = 160
        d.line((left, base), (left + 322, base), colour=BLUE, width=6)
        d.arrow((left + 320, base), (left + 342, base), colour=BLUE, width=6)
        parts = (("attention", 70, 24, 130), ("MLP", 194 if parallel else 70, 24 if parallel else 182, 130))
        for k, (name, y, x, wide) in enumerate(parts):
            box = d.box(left + x + 16, y, wide - 32, 40, name, fill="#e8f1f8" if k == 0 else "#f8dfcf",
                        line=BLUE if k == 0 else ORANGE)  # fmt: skip
            above = y < base
            side = box.bottom[1] if above else box.top[1]
            edge = base - 3 if above else base + 3
            d.arrow((box.x + 18, edge), (box.x + 18, side), colour=INK)
            end = (left + 280 if parallel else box.x + box.width - 12, base - 10 if above else base + 10)
            if parallel:
                d.line(box.right, (end[0], box.right[1]), colour=ORANGE, width=2)
                d.arrow((end[0], box.right[1]), end, colour=ORANGE, width=2)
            else:
                d.arrow((end[0], side), end, colour=ORANGE, width=2)
                d.box(end[0] - 10, base - 10, 20, 20, "+", fill="#ffffff", size=14)
        if parallel:
            d.box(left + 270, base - 10, 20, 20, "+", fill="#ffffff", size=14)
    d.text(
        20,
        240,
        "black: reads; orange: adds; blue: the residual stream",
        size=11,
        anchor="start",
        colour="#555",
    )
    return d
