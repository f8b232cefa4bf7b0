"""The architecture drawing: llm_graph's rows as boxes and arrows, with shapes; blocks fold and unfold."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html import escape

import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.widgets.base import CSS, Database, Widget, script
from pg_llm.widgets.layout import HEIGHT, STEP, WIDTH, Column, Node
from pg_llm.widgets.picture import Picture, n

BLOCK = re.compile(r"^(h\.\d+)(?:\.|$)")
FILLS = {
    "embedding": "weights", "matmul": "weights", "attention": "attention", "layernorm": "norm",
    "rmsnorm": "norm", "gelu": "bend", "relu": "bend", "silu": "bend", "swiglu": "bend", "sigmoid": "bend",
    "tanh": "bend", "input": "box", "block": "weights", "outside": "paper",
}  # fmt: skip
LETTERS = {"C": "d_model", "V": "vocab", "P": "n_positions", "F": "d_ff"}


class Architecture(Widget):
    """The widget that pg_llm.architecture returns; unfold lists the blocks that are drawn in full."""

    _esm = script("architecture")
    _css = CSS

    model = traitlets.Unicode().tag(sync=True)
    unfold = traitlets.List(traitlets.Unicode(), default_value=["h.0"]).tag(sync=True)

    controls = ("model", "unfold")

    def look(self, db: Database) -> dict:
        """The drawing and the facts about each node."""
        rows = db.rows(
            "SELECT name, op, inputs, attrs, shape FROM {0}.llm_graph WHERE model = %(m)s ORDER BY id",
            m=self.model,
        )
        if not rows:
            known = db.rows("SELECT DISTINCT model FROM {0}.llm_graph ORDER BY 1")
            names = ", ".join(name for (name,) in known)
            raise KitError(f"there is no model {self.model!r} in llm_graph; there are: {names}")
        config = db.rows(
            "SELECT d_model, vocab, n_positions, d_ff FROM {0}.llm_model_config WHERE model = %(m)s",
            m=self.model,
        )
        self._sizes = dict(zip("CVPF", config[0], strict=True)) if config else {}
        stored = db.rows(
            "SELECT name, {0}.shape(data), {0}.numel(data) FROM {0}.llm_param WHERE model = %(m)s",
            m=self.model,
        )
        self._stored = {name: (list(shape), count) for name, shape, count in stored}
        formulas = dict(db.rows("SELECT op, shape_rule FROM {0}.llm_op"))
        self._rows = {name: (op, list(inputs), attrs, shape) for name, op, inputs, attrs, shape in rows}
        self._blocks = sorted(
            {m.group(1) for name in self._rows if (m := BLOCK.match(name))}, key=lambda b: int(b[2:])
        )
        columns = self._columns()
        facts = {f"{c.title}/{node.name}": self._facts(node, formulas) for c in columns for node in c.nodes}
        return {"svg": self._svg(columns, facts, live=True), "nodes": facts, "blocks": self._blocks,
                "total": self._total(), "sizes": self._sizes}  # fmt: skip

    # -- the rows as nodes ----

    def _columns(self) -> list[Column]:
        """The whole model with its blocks folded, then each unfolded block."""
        open_blocks = [b for b in self._blocks if b in self.unfold]
        return [Column(self.model, self._nodes(None))] + [Column(b, self._nodes(b)) for b in open_blocks]

    def _nodes(self, block: str | None) -> list[Node]:
        """The nodes of one block, or of the model with each block as one node; parameters are no nodes."""
        home = {name: (m.group(1) if (m := BLOCK.match(name)) else None) for name in self._rows}
        nodes: dict[str, Node] = {}
        for name, (op, inputs, _, shape) in self._rows.items():
            if op == "param" or (block is not None and home[name] != block):
                continue
            weights = [i for i in inputs if self._rows.get(i, ("param",))[0] == "param"]
            reads = [i for i in inputs if i not in weights]
            inside = home[name] if block is None else None
            if inside:
                node = nodes.setdefault(inside, Node(inside, "block", [], None, []))
                node.inputs += [i for r in reads if (i := home[r] or r) != inside and i not in node.inputs]
                node.shape, node.weights = shape, node.weights + weights
                continue
            if block is None:
                reads = [home[r] or r for r in reads]
            for outside in [r for r in reads if block is not None and home[r] != block]:
                nodes.setdefault(outside, Node(outside, "outside", [], self._rows[outside][3], []))
            nodes[name] = Node(name, op, reads, shape, weights)
        return list(nodes.values())

    def _count(self, parameter: str) -> int | None:
        """Elements of a parameter: of the stored one, else by its declared shape."""
        if parameter in self._stored:
            return self._stored[parameter][1]
        shape = self._rows[parameter][3] if parameter in self._rows else None
        sizes = [self._length(part) for part in shape or []]
        return math.prod(s for s in sizes if s) if shape is not None and all(sizes) else None

    def _length(self, part: str) -> int | None:
        """A length such as 3*C as a number.

        The letters B and T have none: they depend on the input.
        """
        factors = [int(f) if f.isdigit() else self._sizes.get(f) for f in str(part).split("*")]
        return math.prod(f for f in factors if f) if all(factors) else None

    def _parameters(self, node: Node) -> int:
        return sum(self._count(w) or 0 for w in dict.fromkeys(node.weights))

    def _total(self) -> int:
        return sum(self._count(name) or 0 for name, row in self._rows.items() if row[0] == "param")

    def _facts(self, node: Node, rules: dict[str, str]) -> dict:
        """What the panel shows about a node."""
        op, inputs, attrs, shape = self._rows.get(node.name, ("block", node.inputs, {}, node.shape))
        if node.op == "block":
            op, inputs, attrs, shape = "block", node.inputs, {}, node.shape
        weights = [
            {"name": w, "shape": self._stored[w][0] if w in self._stored else self._rows[w][3]}
            for w in dict.fromkeys(node.weights)
        ]
        names = list(self._rows)
        earlier = names[: names.index(node.name)] if node.name in names else []
        shares = [w for w in node.weights if any(w in self._rows[name][1] for name in earlier)]
        return {
            "op": op,
            "inputs": inputs,
            "attrs": attrs,
            "shape": shape or [],
            "sized": [str(self._length(s) or s) for s in shape or []],
            "weights": weights,
            "count": self._parameters(node),
            "shares": ", ".join(shares) if node.op != "block" else "",
            "readers": [name for name, row in self._rows.items() if node.name in row[1]],
            "rule": rules.get(op, ""),
            "block": node.op == "block",
            "open": node.op == "block" and node.name in self.unfold,
        }

    # -- the drawing ----

    def _svg(self, columns: list[Column], facts: dict, live: bool) -> str:
        x, places = 24.0, []
        for column in columns:
            places.append(x - column.left)
            x += column.width + 56
        p = Picture(x - 56 + 24, live)
        self._zoom(p, columns, places)
        for column, at in zip(columns, places, strict=True):
            self._column(p, column, at, facts)
        y = p.height + 22
        sizes = ", ".join(
            f"{letter} = {self._sizes[letter]:,}" for letter in LETTERS if letter in self._sizes
        )
        for line in ("B: sequences of a batch, T: tokens of a sequence", sizes):
            p.text(24, y, line, size=11.5, colour="muted")
            y += 16
        return p.svg(self.describe_of(columns))

    def _column(self, p: Picture, column: Column, at: float, facts: dict) -> None:
        top = 62.0
        total = self._total() if column.title == self.model else sum(map(self._parameters, column.nodes))
        bold = column.title if column.title == self.model else f"block {column.title}"
        p.text(at + column.left, 26, bold, size=15, bold=True)
        p.text(at + column.left, 43, f"{total:,} parameters", size=12, colour="muted")
        if column.title != self.model:
            p.rect(at + column.left - 14, 54, column.width + 28, column.depth * STEP - STEP + HEIGHT + 18,
                   fill="none", line="line", round=10, dashed=True)  # fmt: skip
        for edge in column.edges:
            p.path(edge.path(at, top), line="line", width=1.6)
            x, y = edge.tip(at, top)
            dx, dy = (-6, 4) if not edge.sideways else (6, 4)
            head = (
                f"M{n(x)} {n(y)} l{dx} -6 l12 0 Z"
                if not edge.sideways
                else f"M{n(x)} {n(y)} l{dx + 1} -{dy} l0 8 Z"
            )
            p.path(head, line="line", width=1, fill="line")
        for node in column.nodes:
            self._box(p, node, at + column.x[node.name], top + column.y[node.name], facts, column)

    def _box(self, p: Picture, node: Node, x: float, y: float, all_facts: dict, column: Column) -> None:
        facts = all_facts[f"{column.title}/{node.name}"]
        short = node.name.removeprefix(column.title + ".")
        more = f"{facts['count']:,} parameters" if facts["count"] else ""
        if facts["shares"]:
            more = f"shares {facts['shares']}"
        label = f"{node.name}, {facts['op']}, shape {' by '.join(facts['shape']) or 'scalar'}"
        label += f", {more}" if more else ""
        if p.live:
            state = f' aria-expanded="{str(facts["open"]).lower()}"' if facts["block"] else ""
            p.add(
                f'<g class="pgl-node" role="button" tabindex="-1" data-name="{escape(node.name)}" '
                f'data-column="{escape(column.title)}" aria-label="{escape(label)}"{state}>'
            )
        else:
            p.add(f"<g><title>{escape(label)}</title>")
        if node.op == "block":  # a stack of cards
            p.rect(x + 5, y + 4, WIDTH, HEIGHT, fill="box", line="line")
        p.rect(
            x, y, WIDTH, HEIGHT, fill=FILLS.get(node.op, "plain"), line="line", dashed=node.op == "outside"
        )
        p.text(x + 9, y + 15, short, size=12.5, bold=True)
        p.text(
            x + WIDTH - 9,
            y + 15,
            "from outside" if node.op == "outside" else facts["op"],
            size=12,
            anchor="end",
        )
        p.text(x + 9, y + 30, f"({', '.join(s.replace('*', '·') for s in facts['shape'])})", size=11.5,
               colour="muted", mono=True)  # fmt: skip
        p.text(x + WIDTH - 9, y + 30, more, size=11.5, colour="muted", anchor="end")
        p.add("</g>")

    def _zoom(self, p: Picture, columns: list[Column], places: list[float]) -> None:
        """Dashed lines from a folded block to its drawing in full."""
        whole = columns[0]
        for column, at in zip(columns[1:2], places[1:2], strict=True):
            x, y = places[0] + whole.x[column.title] + WIDTH + 6, 62 + whole.y[column.title]
            left, bottom = at + column.left - 14, 54 + column.depth * STEP - STEP + HEIGHT + 18
            p.path(f"M{n(x)} {n(y - 3)} L{n(left)} 60", line="line", width=1, dashed=True)
            p.path(f"M{n(x)} {n(y + HEIGHT)} L{n(left)} {n(bottom - 6)}", line="line", width=1, dashed=True)

    def draw(self) -> str:
        """The drawing with fixed colours, on its own paper."""
        return self._svg(self._columns(), self.view["nodes"], live=False)

    def describe(self) -> str:
        """The architecture in words."""
        return self.describe_of(self._columns())

    def describe_of(self, columns: list[Column]) -> str:
        """The nodes of each column, in order, with their operations and shapes."""

        def told(node: Node) -> str:
            shape = f"({', '.join(node.shape or [])})"
            reads = f" of {', '.join(node.inputs)}" if node.inputs else ""
            return f"{node.name} {shape}: {node.op}{reads}"

        parts = [f"The architecture of {self.model}: {self._total():,} parameters"]
        for column in columns:
            name = "From the input on" if column.title == self.model else f"Block {column.title}"
            parts.append(f"{name}: " + "; ".join(told(node) for node in column.nodes if node.op != "outside"))
        return ". ".join(parts) + "."

    def rows(self, name: str) -> str:
        """The SQL that shows a node's row."""
        return f"SELECT * FROM llm_graph WHERE model = {json.dumps(self.model)} AND name = {json.dumps(name)}"


def architecture(
    model: str = "classroom", *, unfold: Sequence[str] = ("h.0",), conn: psycopg.Connection | None = None
) -> Architecture:
    """A drawing of a model from its rows in llm_graph: operations, shapes and parameters.

    A model with other rows is another drawing. A click on a node shows its row; blocks fold and unfold.
    unfold: the blocks drawn in full. conn: None is the notebook's connection.
    pg_llm.architecture("classroom").picture().save("classroom.svg") writes it to a file.
    Errors: KitError, psycopg.Error.
    """
    return Architecture(conn, model=model, unfold=list(unfold))
