"""The logit lens: what a model would say next if it ended after each of its layers, for every token."""

from __future__ import annotations

import re

import numpy as np
import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.widgets import words
from pg_llm.widgets.base import CSS, Database, Widget, script
from pg_llm.widgets.picture import LETTER, Picture, percent, shown

BEST = 5  # tokens of a cell
LONGEST = 64  # tokens of a text
STREAM = re.compile(r"embd|h\.[0-9]{1,6}")  # nodes after which the residual stream is read


class LogitLens(Widget):
    """The widget that pg_llm.logit_lens returns; node and position say which cell is looked at."""

    _esm = script("lens")
    _css = CSS

    text = traitlets.Unicode().tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    node = traitlets.Unicode("").tag(sync=True)  # "" is the last one
    position = traitlets.Int(-1).tag(sync=True)  # negative from the end

    controls = ("text", "model")

    def look(self, db: Database) -> dict:
        """The best tokens at every node of the residual stream and every position of the text."""
        tokenizer = words.tokenizer_of(db, self.model)
        ids: list[int] = db.value("SELECT {0}.llm_encode(%(t)s, %(m)s)", t=self.text, m=self.model)
        if not ids:
            raise KitError("the logit lens needs a text of at least one token")
        if len(ids) > LONGEST:
            raise KitError(
                f"this text has {len(ids)} tokens; the logit lens shows up to {LONGEST}: shorten it"
            )
        run = db.value("SELECT {0}.llm_trace(%(m)s, %(ids)s)", m=self.model, ids=ids)
        last = db.value(
            "SELECT inputs[1] FROM {0}.llm_graph WHERE model = %(m)s AND name = 'ln_f'", m=self.model
        )
        if last is None:
            raise KitError(
                f"the model {self.model!r} has no node ln_f in llm_graph: the lens reads through it"
            )
        rows = db.rows("SELECT name FROM {0}.llm_tensor_rt WHERE run = %(run)s ORDER BY id", run=run)
        names = [name for (name,) in rows if name and STREAM.fullmatch(name)]
        best = {name: self._read(db, run, name, last) for name in names}
        rows = db.rows(
            "SELECT id, {0}.llm_token_text(id, %(m)s) FROM unnest(%(ids)s::int[]) AS id",
            m=self.model, ids=sorted({i for cells in best.values() for cell in cells for i, _ in cell}),
        )  # fmt: skip
        texts = {i: text or f"#{i}" for i, text in rows}
        pieces = words.pieces(db, self.text, tokenizer)
        return {
            "tokens": [t for piece in pieces for t in piece["tokens"]],
            "unknown": list(dict.fromkeys(p["unknown"] for p in pieces if p["unknown"])),
            "nodes": names,
            "last": last,
            "cells": {
                name: [[{"id": i, "token": texts[i], "probability": p} for i, p in cell] for cell in cells]
                for name, cells in best.items()
            },
        }

    def _read(self, db: Database, run: int, name: str, last: str) -> list[list[tuple[int, float]]]:
        """The best tokens of each position with their probabilities, if `name` were the last layer."""
        [(shares,)] = db.rows(
            "SELECT {0}.softmax({0}.llm_eval(%(m)s, 'logits', '{{}}', ARRAY[%(last)s::text], ARRAY[data])) "
            "FROM {0}.llm_tensor_rt WHERE run = %(run)s AND name = %(name)s",
            binary=True, m=self.model, last=last, run=run, name=name,
        )  # fmt: skip
        table = np.asarray(shares, np.float32).reshape(-1, np.shape(shares)[-1])
        order = np.argsort(-table, axis=1, kind="stable")[:, :BEST]
        return [
            [(int(i), round(float(row[i]), 6)) for i in chosen]
            for row, chosen in zip(table, order, strict=True)
        ]

    def _place(self) -> tuple[str, int]:
        """The node and the position of the cell that is looked at."""
        T, nodes = len(self.view["tokens"]), self.view["nodes"]
        at = self.position % T if -T <= self.position < T else T - 1
        return (self.node if self.node in nodes else nodes[-1]), at

    # -- the static picture ----

    def describe(self) -> str:
        """What the lens reads in the chosen column, and the best tokens of the chosen cell, in words."""
        node, at = self._place()
        token = shown(self.view["tokens"][at]["text"])
        column = "; ".join(
            f"after {name} “{shown(cells[at][0]['token'])}” {percent(cells[at][0]['probability'])}"
            for name, cells in self.view["cells"].items()
        )
        best = ", ".join(
            f"“{shown(b['token'])}” {percent(b['probability'])}" for b in self.view["cells"][node][at]
        )
        return (
            f"Logit lens for {self.model}, “{self.text}”: the most probable next token if the model ended "
            f"there. At the token “{token}”, position {at}: {column}. The best after {node}: {best}."
        )

    def draw(self) -> str:
        """A row for each node, the last on top, a column for each of the last tokens, and one cell's bars."""
        node, at = self._place()
        T = len(self.view["tokens"])
        first = max(0, min(T - 9, at - 4))
        columns = range(first, min(T, first + 9))
        wide, high, left = 78, 26, 62
        p = Picture(left + wide * len(columns) + 16)
        p.text(16, 26, f"Logit lens: {self.model}", bold=True)
        where = f", positions {first} to {columns[-1]} of {T}" if len(columns) < T else ""
        p.text(16, 45, f"the most probable next token if the model ended after each layer{where}", size=12,
               colour="muted")  # fmt: skip
        y = 56.0
        for name in reversed(self.view["nodes"]):
            p.text(left - 8, y + 17, name, size=12, mono=True, anchor="end")
            for k, j in enumerate(columns):
                top = self.view["cells"][name][j][0]
                x = left + k * wide
                chosen = (name, j) == (node, at)
                p.rect(x + 1, y + 1, wide - 2, high - 2, fill="box", line="orange" if chosen else "faint")
                more = f' opacity="{0.55 * top["probability"]:.2f}"'
                p.rect(x + 1, y + 1, wide - 2, high - 2, fill="blue", more=more)
                word = _cut(shown(top["token"]), wide - 8)
                p.text(x + wide / 2, y + 17, word, size=12, mono=True, anchor="middle")
            y += high
        p.text(left - 8, y + 18, "token", size=12, colour="muted", anchor="end")
        for k, j in enumerate(columns):
            token = _cut(shown(self.view["tokens"][j]["text"]), wide - 6)
            p.text(left + (k + 0.5) * wide, y + 18, token, size=12, mono=True, bold=j == at, anchor="middle")
        y += 44
        p.text(16, y, f"after {node}, at “{shown(self.view['tokens'][at]['text'])}”", size=12, colour="muted")
        for best in self.view["cells"][node][at]:
            p.text(128, y + 20, shown(best["token"]), mono=True, anchor="end")
            p.rect(136, y + 9, max(1, 220 * best["probability"]), 13, fill="blue", round=2)
            p.text(142 + max(1, 220 * best["probability"]), y + 20, percent(best["probability"]), size=12,
                   colour="muted")  # fmt: skip
            y += 20
        return p.svg(self.describe())


def _cut(text: str, width: float, size: float = 12) -> str:
    """A text that fits into a width of pixels, in a monospaced font."""
    most = max(2, int(width / (LETTER * size)))
    return text if len(text) <= most else text[: most - 1] + "…"


def logit_lens(
    text: str = "It was spring. There was a paper key Ruth Gray took to the tent. Ruth",
    model: str = "classroom",
    *,
    node: str | None = None,
    position: int = -1,
    conn: psycopg.Connection | None = None,
) -> LogitLens:
    """For each token and layer, the next token that the model would say if it ended there.

    The residual stream after each layer goes through the last layer norm and the unembedding. A cell shows
    the most probable token, darker the more probable; the chosen cell shows its five best ones.
    node: the cell's row, as h.2; None: the last layer. position: its column, negative from the end.
    conn: None is the notebook's connection. Errors: KitError, psycopg.Error.
    """
    return LogitLens(conn, text=text, model=model, node=node or "", position=position)
