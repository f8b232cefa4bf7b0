"""Drawings of notebook 02: how the merges of a word grow into a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pg_llm.drawings.svg import BLUE, GREY, Drawing, shade

if TYPE_CHECKING:
    import pandas as pd

ROW, LETTER = 44, 50


@dataclass
class _Node:
    """A token: its text, the middle of its box, its height in the tree, its merge's rank and its halves."""

    token: str
    x: float
    level: int = 0
    rank: int | None = None
    halves: tuple[_Node, ...] = ()


def merge_tree(steps: pd.DataFrame) -> Drawing:
    """The merges of one word as a tree: bytes below, the tokens that are made of them above, with ranks.

    steps: the rows of llm_bpe_steps, columns rank, left_token, right_token, tokens, from step 0.
    """
    letters = list(steps["tokens"].iloc[0])
    pieces = [_Node(letter, LETTER * (i + 0.5) + 16) for i, letter in enumerate(letters)]
    nodes, told = list(pieces), []
    for row in steps.iloc[1:].itertuples():
        at = _place(pieces, str(row.left_token), str(row.right_token))
        left, right = pieces[at : at + 2]
        made = _Node(left.token + right.token, (left.x + right.x) / 2, 1 + max(left.level, right.level),
                     int(float(str(row.rank))), (left, right))  # fmt: skip
        pieces[at : at + 2] = [made]
        nodes.append(made)
        told.append(f"{left.token} and {right.token} (rank {made.rank})")
    top = max(node.level for node in nodes)
    word, kept = "".join(letters), ", ".join(piece.token for piece in pieces)
    d = Drawing(
        LETTER * len(letters) + 32, 60 + ROW * (top + 1),
        f"The word {word} as a tree: its {len(letters)} bytes at the bottom. Merged in this order: "
        f"{'; '.join(told) or 'nothing'}. What remains: {kept}.",
        title=f"The merges of {word}",
    )  # fmt: skip
    for node in nodes:
        for half in node.halves:
            d.line((node.x, _y(node, top) + 26), (half.x, _y(half, top)), colour=GREY)
    for node in nodes:
        _draw(d, node, _y(node, top), node in pieces)
    return d


def _place(pieces: list[_Node], left: str, right: str) -> int:
    """Where the pair stands first."""
    for at, (a, b) in enumerate(zip(pieces, pieces[1:], strict=False)):
        if (a.token, b.token) == (left, right):
            return at
    raise ValueError(f"merge_tree: {left} and {right} are no neighbours here; pass all rows of llm_bpe_steps")


def _y(node: _Node, top: int) -> float:
    return 40 + ROW * (top - node.level)


def _draw(d: Drawing, node: _Node, y: float, remains: bool) -> None:
    """A token's box, dark if it remains to the end, with the rank of its merge beside it."""
    width = max(28.0, 9 * len(node.token) + 12)
    fill = BLUE if remains else shade(0.12) if node.halves else "#ffffff"
    d.box(node.x - width / 2, y, width, 26, node.token, fill=fill, line=BLUE if node.halves else GREY,
          size=13, mono=True)  # fmt: skip
    if node.rank is not None:
        d.text(node.x + width / 2 + 4, y + 17, str(node.rank), size=10, anchor="start", colour="#5f6972")
