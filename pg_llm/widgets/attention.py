"""The attention explorer: what each head attends to, and what the model predicts without some of them."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.widgets import words
from pg_llm.widgets.base import CSS, Database, Widget, script
from pg_llm.widgets.picture import LETTER, Picture, n, percent, shown

BARS = 8
LONGEST = 64  # tokens of a text
LAYER = (
    "coalesce(substring(name FROM '^h\\.([0-9]{{1,6}})\\.')::int, row_number() OVER (ORDER BY id)::int - 1)"
)


class AttentionExplorer(Widget):
    """The widget that pg_llm.attention_explorer returns; off lists the heads that are switched off."""

    _esm = script("attention")
    _css = CSS

    text = traitlets.Unicode().tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    off: traitlets.List = traitlets.List().tag(sync=True)  # [layer, head] of each head that is switched off
    layer = traitlets.Int(0).tag(sync=True)  # whose lines are drawn
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(-1).tag(sync=True)  # the token whose lines are drawn; negative from the end
    weights = traitlets.Bytes().tag(sync=True)  # float32 of (layers, heads, T, T)

    controls = ("text", "model", "off")

    def look(self, db: Database) -> dict:
        """Weights and next tokens with the heads that are off; the transaction around it is rolled back."""
        nodes = db.rows(
            f"SELECT {LAYER}, name, attrs FROM {{0}}.llm_graph "
            "WHERE model = %(m)s AND op = 'attention' ORDER BY id", m=self.model,
        )  # fmt: skip
        tokenizer = words.tokenizer_of(db, self.model)
        tokens: list[int] = db.value("SELECT {0}.llm_encode(%(t)s, %(m)s)", t=self.text, m=self.model)
        if not tokens:
            raise KitError("the attention explorer needs a text of at least one token")
        if len(tokens) > LONGEST:
            raise KitError(
                f"this text has {len(tokens)} tokens; the explorer draws up to {LONGEST}: shorten it"
            )
        before = self._next(db)
        if not nodes:
            raise KitError(f"the model {self.model!r} has no node of op attention in llm_graph")
        statements = self._switch_off(db, nodes)
        run = db.value("SELECT {0}.llm_trace(%(m)s, %(ids)s)", m=self.model, ids=tokens)
        rows = db.rows(
            "SELECT layer, head, query, key, weight FROM {0}.llm_attention_map WHERE run = %(run)s", run=run
        )
        places = {layer: k for k, (layer, _, _) in enumerate(nodes)}
        self._shape = len(nodes), max((row[1] for row in rows), default=0) + 1, len(tokens), len(tokens)
        grid = np.zeros(self._shape, np.float32)
        if rows:
            layer, head, query, key, weight = zip(*rows, strict=True)
            grid[[places[i] for i in layer], head, query, key] = weight
        self.weights = grid.tobytes()
        after = self._next(db) if statements else before
        pieces = words.pieces(db, self.text, tokenizer)
        return {
            "tokens": [t for piece in pieces for t in piece["tokens"]],
            "unknown": list(dict.fromkeys(p["unknown"] for p in pieces if p["unknown"])),
            "layers": [layer for layer, _, _ in nodes],
            "heads": [_heads(attrs) for _, _, attrs in nodes],
            "bars": _bars(before, after),
            "sql": statements,
        }

    def _next(self, db: Database) -> dict[tuple[int, str], float]:
        rows = db.rows(
            "SELECT token_id, token, probability FROM {0}.llm_next_tokens(%(t)s, NULL, %(m)s) ORDER BY rank",
            t=self.text, m=self.model,
        )  # fmt: skip
        return {(token_id, token): p for token_id, token, p in rows}

    def _switch_off(self, db: Database, nodes: list[tuple]) -> list[str]:
        """Sets head_mask of the nodes whose heads are off; returns the statements for a reader."""
        statements = []
        for layer, name, attrs in nodes:
            gone = {int(head) for at, head in self.off if at == layer}
            if not gone:
                continue
            mask = list(attrs.get("head_mask") or [1] * _heads(attrs))
            mask = [0 if k in gone else value for k, value in enumerate(mask)]
            db.rows(
                "UPDATE {0}.llm_graph SET attrs = attrs || %(a)s::jsonb WHERE model = %(m)s AND name = %(n)s",
                a=json.dumps({"head_mask": mask}), m=self.model, n=name,
            )  # fmt: skip
            statements.append(
                f"UPDATE llm_graph SET attrs = attrs || '{json.dumps({'head_mask': mask})}'\n"
                f"WHERE model = '{self.model}' AND name = '{name}';"
            )
        return statements

    def switch(self, layer: int, head: int) -> None:
        """Switches a head off, or on again, as a click on it does."""
        pair = [layer, head]
        self.off = [p for p in self.off if p != pair] if pair in self.off else [*self.off, pair]

    def sharpest(self) -> tuple[int, int]:
        """Layer and head in which the chosen token attends most to a single earlier token."""
        at = self._query()
        most = self._weights()[:, :, at, :at].max(axis=2, initial=0)
        k, head = np.unravel_index(int(most.argmax()), most.shape)
        return self.view["layers"][int(k)], int(head)

    # -- the static picture ----

    def _weights(self) -> np.ndarray:
        """The weights (layers, heads, T, T)."""
        return np.frombuffer(self.weights, np.float32).reshape(self._shape)

    def _query(self) -> int:
        T = self._shape[2]
        return self.query % T if -T <= self.query < T else T - 1

    def _place(self) -> tuple[int, int]:
        """The chosen head in the grid; the first one if there is none of that number."""
        layers = self.view["layers"]
        k = layers.index(self.layer) if self.layer in layers else 0
        return k, self.head if self.head < self.view["heads"][k] else 0

    def describe(self) -> str:
        """The weights of the chosen head and the next tokens in words."""
        at, (k, head) = self._query(), self._place()
        tokens = [shown(t["text"]) for t in self.view["tokens"]]
        row = self._weights()[k, head, at]
        best = sorted(range(at + 1), key=lambda i: -round(float(row[i]), 4))[:5]
        attends = ", ".join(f"“{tokens[i]}” (position {i}) {percent(float(row[i]))}" for i in best)
        text = (
            f"Attention explorer for {self.model}, “{self.text}”. In layer {self.view['layers'][k]}, "
            f"head {head}, the token “{tokens[at]}” at position {at} attends to {attends}. "
        )
        bars = self.view["bars"]
        if not self.off:
            return (
                text
                + "Next tokens: "
                + ", ".join(f"“{shown(b['token'])}” {percent(b['before'])}" for b in bars)
            )
        gone = ", ".join(f"layer {layer} head {h}" for layer, h in sorted(self.off))
        changes = (f"“{shown(b['token'])}” {percent(b['before'])} → {percent(b['after'])}" for b in bars)
        return text + f"Switched off: {gone}. Next tokens, before and after: " + ", ".join(changes)

    def draw(self) -> str:
        """Lines from the chosen token, a strip of its weights for each head, and the next tokens."""
        p = Picture(780)
        at, (k, head) = self._query(), self._place()
        tokens = [shown(t["text"]) for t in self.view["tokens"]]
        weights = self._weights()
        p.text(
            18, 26, f"What “{tokens[at]}” attends to: layer {self.view['layers'][k]}, head {head}", bold=True
        )
        self._lines(p, tokens, at, weights[k, head, at])
        y = self._strips(p, at, weights, k, head)
        self._next_bars(p, 420, y + 34)
        return p.svg(self.describe())

    def _lines(self, p: Picture, tokens: list[str], at: int, row: np.ndarray) -> None:
        step, top = 22, 62
        p.text(130, 46, "query", size=12, colour="muted", anchor="end")
        p.text(270, 46, "key", size=12, colour="muted")
        for i, token in enumerate(tokens):
            y, weight = top + i * step, float(row[i])
            chosen = i == at
            if chosen:
                width = len(token) * LETTER * 13 + 10
                p.rect(135 - width, y - 11, width, 20, fill="weights", line="blue")
            p.text(130, y + 4, token, mono=True, anchor="end", bold=chosen)
            p.text(270, y + 4, token, mono=True, colour="ink" if i <= at else "line")
            if i <= at:
                path = f"M142 {n(top + at * step)} C200 {n(top + at * step)} 200 {y} 262 {y}"
                if weight >= 0.005:
                    p.path(path, line="blue", width=0.5 + 9 * weight, opacity=0.3 + 0.6 * weight)
                p.text(390, y + 4, percent(round(weight, 3)), size=12, colour="muted", anchor="end")

    def _strips(self, p: Picture, at: int, weights: np.ndarray, k: int, head: int) -> float:
        left, T = 470, self._shape[2]
        cell = min(9.0, 66 / T)
        p.text(420, 46, "every head: the weights of this token", size=12, colour="muted")
        for row, layer in enumerate(self.view["layers"]):
            y = 62 + row * 26
            p.text(420, y + 10, f"layer {layer}", size=12)
            for h in range(self.view["heads"][row]):
                x = left + h * (cell * T + 8)
                chosen = (row, h) == (k, head)
                off = [layer, h] in self.off
                for i in range(at + 1):
                    share = float(weights[row, h, at, i])
                    if share >= 0.02:
                        more = f' opacity="{n(share)}"'
                        p.rect(x + i * cell, y, cell, 14, fill="line" if off else "blue", round=0, more=more)
                line = "orange" if off else "ink" if chosen else "faint"
                p.rect(x - 1, y - 1, cell * T + 2, 16, fill="none", line=line, round=2)
                if off:
                    p.path(f"M{n(x)} {y + 14} L{n(x + cell * T)} {y}", line="orange")
                p.width = max(p.width, x + cell * T + 20)
        return 62 + 26 * len(self.view["layers"])

    def _next_bars(self, p: Picture, x: float, y: float) -> None:
        gone = len(self.off)
        title = "next token"
        if gone:
            title += f": outline all heads, filled {gone} head{'s' * (gone > 1)} off"
        p.text(x, y, title, size=12, colour="muted")
        most = max(max(b["before"], b["after"]) for b in self.view["bars"])
        for bar in self.view["bars"]:
            p.text(x + 92, y + 22, shown(bar["token"]), mono=True, anchor="end")
            p.rect(
                x + 100, y + 10, max(1, 130 * bar["before"] / most), 14, fill="paper", line="line", round=2
            )
            p.rect(x + 100, y + 12, max(1, 130 * bar["after"] / most), 10, fill="blue", round=2)
            text = f"{percent(bar['before'])} → {percent(bar['after'])}" if gone else percent(bar["before"])
            p.text(x + 238, y + 22, text, size=12, colour="muted")
            y += 22


def _heads(attrs: dict) -> int:
    return int(attrs.get("n_head", 1))


def _bars(before: dict[tuple[int, str], float], after: dict[tuple[int, str], float]) -> list[dict]:
    """The tokens that are most probable before or after, the most probable first."""
    order = sorted(before, key=lambda token: (-max(before[token], after[token]), token[0]))
    return [
        {"id": token[0], "token": token[1], "before": before[token], "after": after[token]}
        for token in order[:BARS]
    ]


def attention_explorer(
    text: str = "It was spring. There was a paper key Ruth Gray took to the tent. Ruth",
    model: str = "classroom",
    *,
    layer: int | None = None,
    head: int | None = None,
    query: int = -1,
    conn: psycopg.Connection | None = None,
) -> AttentionExplorer:
    """A text with lines as wide as the attention weights of the chosen token, and a grid of all heads.

    A click on a head switches it off (head_mask) in a transaction that is rolled back: bars show the next
    tokens before and after; the model in the database is as it was.
    layer, head: whose lines are drawn first; None: the head that attends most to a single earlier token.
    query: the position of the token that attends, negative from the end.
    conn: None is the notebook's connection. Errors: KitError, psycopg.Error.
    """
    explorer = AttentionExplorer(conn, text=text, model=model, query=query)
    best = explorer.sharpest()
    explorer.layer, explorer.head = best[0] if layer is None else layer, best[1] if head is None else head
    return explorer
