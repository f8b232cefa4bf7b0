"""The tape stepper: forward through the rows of a recorded run, then backward, one row at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.plots.tape_plot import Layered, short
from pg_llm.widgets.base import CSS, Database, Widget, script
from pg_llm.widgets.picture import Picture, n

LONGEST = 45  # rows of a tape
WIDE, HIGH, COLUMN, ROW = 124.0, 56.0, 146.0, 88.0  # a node, and the distances between nodes, in pixels
APART = 16.0  # between two arrows to one node
TABLE = 470.0  # width of the rows in the static picture

# op -> the slopes of a scalar result y for the inputs x, as llm_op has them
SLOPES: dict[str, Callable[[list[float], float], list[float]]] = {
    "add": lambda x, y: [1, 1],
    "sub": lambda x, y: [1, -1],
    "mul": lambda x, y: [x[1], x[0]],
    "div": lambda x, y: [1 / x[1], -y / x[1]],
    "neg": lambda x, y: [-1],
    "exp": lambda x, y: [y],
    "log": lambda x, y: [1 / x[0]],
    "sqrt": lambda x, y: [1 / (2 * y)],
    "sin": lambda x, y: [math.cos(x[0])],
    "cos": lambda x, y: [-math.sin(x[0])],
    "tanh": lambda x, y: [1 - y * y],
    "relu": lambda x, y: [float(x[0] > 0)],
}


class Tensor(NamedTuple):
    """A row of llm_tensor_rt; value and gradient are numbers where the tensor is one, else its norm."""

    label: str
    shape: list[int]
    value: float | None
    gradient: float | None
    requires_grad: bool

    def shown(self, number: float | None) -> str:
        """The value, or the gradient, as text."""
        if number is None:
            return ""
        return _r(number) if not self.shape else f"norm {_r(number)}"


class Row(NamedTuple):
    """A row of llm_tape."""

    id: int
    op: str
    inputs: list[int]


class TapeStepper(Widget):
    """The widget that pg_llm.tape_stepper returns; step is where it is, -1 before it was moved."""

    _esm = script("tape")
    _css = CSS

    run = traitlets.Int().tag(sync=True)  # 0: the newest
    step = traitlets.Int(-1).tag(sync=True)

    controls = ("run",)

    def look(self, db: Database) -> dict:
        """The graph, the rows, and what each step shows."""
        run = self.run or db.value("SELECT max(run) FROM {0}.llm_run WHERE who = session_user")
        found = db.rows("SELECT id, op, inputs FROM {0}.llm_tape WHERE run = %(r)s ORDER BY id", r=run)
        if not found:
            raise KitError(f"run {run} has no rows in llm_tape; SELECT run FROM llm_run lists the runs")
        if len(found) > LONGEST:
            raise KitError(
                f"the tape stepper shows up to {LONGEST} rows; run {run} has {len(found)}. "
                "pg_llm.plot_tape draws a part of a long tape"
            )
        self._rows = [Row(*row) for row in found]
        tensors = db.rows(
            "SELECT r.id, {0}.llm_tensor_label(r.name, t.op, r.id, r.data), r.shape, "
            "CASE cardinality(r.shape) WHEN 0 THEN r.data::float8 ELSE {0}.norm(r.data)::float8 END, "
            "CASE cardinality(r.shape) WHEN 0 THEN r.grad::float8 ELSE {0}.norm(r.grad)::float8 END, "
            "r.requires_grad FROM {0}.llm_tensor_rt AS r LEFT JOIN {0}.llm_tape AS t USING (id) "
            "WHERE r.run = %(r)s AND r.id = ANY(%(i)s)",
            r=run, i=sorted({i for row in self._rows for i in (row.id, *row.inputs)}),
        )  # fmt: skip
        ops = {row.id: row.op for row in self._rows}
        self._tensors = {key: Tensor(_numbered(label, ops.get(key)), *rest) for key, label, *rest in tensors}
        steps = self._steps()
        rows = [
            {"id": str(row.id), "op": row.op, "reads": [self._tensors[i].label for i in row.inputs],
             "makes": self._tensors[row.id].label} for row in self._rows
        ]  # fmt: skip
        picture = Picture(0, live=True)
        self._graph(picture, 14, 14, steps[0], live=True)
        return {"title": f"The tape of run {run}: {len(rows)} rows", "steps": steps, "rows": rows,
                "svg": picture.svg("")}  # fmt: skip

    # -- the steps ----

    def _steps(self) -> list[dict[str, Any]]:
        """What is known at each step: inputs, the rows forward, the loss's 1, the rows backward."""
        made = {row.id for row in self._rows}
        values = {str(i): t.shown(t.value) for i, t in self._tensors.items() if i not in made}
        steps = [_step("start", "", [], values, {}, "The inputs. Nothing has been computed yet.")]
        for k, row in enumerate(self._rows, 1):
            result = self._tensors[row.id]
            values = {**values, str(row.id): result.shown(result.value)}
            reads = " and ".join(f"{self._tensors[i].label}{self._said(i)}" for i in row.inputs)
            text = f"Forward, row {k}: {row.op} reads {reads}, and makes {result.shown(result.value)}."
            steps.append(_step("forward", row.id, row.inputs, values, {}, text))
        loss = self._tensors[self._rows[-1].id]
        if loss.gradient is None:
            return steps
        return steps + self._backward(values)

    def _said(self, tensor: int) -> str:
        """A tensor's value behind its label, unless the label is the value."""
        value = self._tensors[tensor].shown(self._tensors[tensor].value)
        return "" if not value or value == self._tensors[tensor].label else f" = {value}"

    def _backward(self, values: dict[str, str]) -> list[dict[str, Any]]:
        rows, tensors = self._rows, self._tensors
        last = rows[-1].id
        uses = Counter(i for row in rows for i in row.inputs)
        sums, came = {last: 1.0}, Counter[int]()
        gradients = {str(last): tensors[last].shown(tensors[last].gradient)}
        text = f"The backward pass begins: the gradient of the result, {tensors[last].label}, is 1."
        steps = [_step("seed", last, [], values, gradients, text)]
        for k, row in reversed(list(enumerate(rows, 1))):
            whole = tensors[row.id]
            slopes = self._slopes(row)
            told = []
            for place, i in enumerate(row.inputs):
                if not tensors[i].requires_grad or whole.gradient is None:
                    continue
                came[i] += 1
                shown = tensors[i].shown(tensors[i].gradient)
                if slopes and row.id in sums:
                    part = slopes[place] * sums[row.id]
                    sums[i] = sums.get(i, 0.0) + part
                    shown = _r(sums[i])
                    told.append(
                        f"{tensors[i].label} gets {_r(slopes[place])} · {_r(sums[row.id])} = {_r(part)}"
                    )
                else:
                    if came[i] < uses[i]:
                        shown = f"{came[i]} of {uses[i]} parts"
                    told.append(f"{tensors[i].label} gets a part ({came[i]} of {uses[i]})")
                gradients = {**gradients, str(i): shown}
            gradient = whole.shown(whole.gradient) or "none"
            text = f"Backward, row {k}: the gradient of {whole.label} is complete, {gradient}. "
            text += "; ".join(told) + "." if told else "Nothing that it read needs a gradient."
            steps.append(_step("backward", row.id, row.inputs, values, gradients, text))
        return steps

    def _slopes(self, row: Row) -> list[float] | None:
        """The local slopes of a row of scalars; None for tensors, and for operations without a rule here."""
        x = [self._tensors[i].value for i in row.inputs]
        y = self._tensors[row.id].value
        scalars = not any(self._tensors[i].shape for i in (row.id, *row.inputs))
        if not scalars or row.op not in SLOPES or y is None or None in x:
            return None
        return SLOPES[row.op]([v for v in x if v is not None], y)

    def state(self) -> dict[str, Any]:
        """The step that is shown; before the first move the last one, in which everything is known."""
        steps = self.view["steps"]
        return steps[self.step if 0 <= self.step < len(steps) else -1]

    # -- the graph ----

    def _graph(self, p: Picture, left: float, top: float, step: dict, live: bool) -> tuple[float, float]:
        """Draws the nodes and arrows; returns how far right and down they reach."""
        frame = pd.DataFrame([
            {"op": row.op, "name": str(row.id), "inputs": [str(i) for i in row.inputs], "shape": []}
            for row in self._rows
        ])  # fmt: skip
        graph = Layered(frame)
        across = graph.places()
        least = min(x for node, x in across.items() if isinstance(node, str))
        at = {
            node: (left + COLUMN * (x - least), top + ROW * graph.depth[node]) for node, x in across.items()
        }
        for path, first, last in graph.arrows(across):
            above, below, aside = at[path[0]], at[path[-1]], APART * first
            middle = [(at[m][0] + WIDE / 2 + aside, at[m][1] + HIGH / 2) for m in path[1:-1]]
            start = (above[0] + WIDE / 2 + aside, above[1] + HIGH)
            end = (below[0] + WIDE / 2 + APART * last, below[1] - 2)
            self._arrow(p, [start, *middle, end], str(path[-1]), step, live)
        made = {str(row.id) for row in self._rows}
        boxes = {node: xy for node, xy in at.items() if isinstance(node, str)}
        for node, (x, y) in boxes.items():
            self._node(p, node, x, y, node in made, step, live)
        p.width = max(p.width, max(x for x, _ in boxes.values()) + WIDE + left)
        return max(x for x, _ in boxes.values()) + WIDE, max(y for _, y in boxes.values()) + HIGH

    def _arrow(self, p: Picture, points: list, to: str, step: dict, live: bool) -> None:
        d = f"M{n(points[0][0])} {n(points[0][1])}"
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            half = (y0 + y1) / 2
            d += f" C{n(x0)} {n(half)} {n(x1)} {n(half)} {n(x1)} {n(y1)}"
        x, y = points[-1]
        now = to == step["row"] and step["phase"] != "seed" and not live
        colour = "orange" if now else "line"
        p.add(f'<g class="pgl-tape-use" data-to="{to}">' if live else "<g>")
        p.path(d, line=colour, width=2.4 if now else 1.4)
        p.path(f"M{n(x)} {n(y)} l-4 -7 l8 0 Z", line=colour, width=1, fill=colour)
        p.add("</g>")

    def _node(self, p: Picture, node: str, x: float, y: float, made: bool, step: dict, live: bool) -> None:
        label = self._tensors[int(node)].label
        value, gradient = step["values"].get(node, ""), step["gradients"].get(node, "")
        now, touched = (
            (node == step["row"] and not live),
            (int(node) in map(int, step["touched"]) and not live),
        )
        p.add(f'<g class="pgl-tape-node" data-id="{node}">' if live else f"<g><title>{escape(label)}</title>")
        fill = "bend" if now else "weights" if made else "plain"
        p.rect(x, y, WIDE, HIGH, fill=fill, line="orange" if now or touched else "line")
        p.text(x + WIDE / 2, y + 16, label[:18], size=12.5, bold=True, anchor="middle")
        for words, down, colour, kind in ((value, 32, "blue", "value"), (gradient, 48, "orange", "gradient")):
            p.add(
                f'<text class="pgl-tape-{kind}" x="{n(x + WIDE / 2)}" y="{n(y + down)}" font-size="12" '
                f'fill="{p.colour(colour)}" text-anchor="middle">{escape(words)}</text>',
                y + down,
            )
        p.add("</g>", y + HIGH)

    # -- the static picture ----

    def draw(self) -> str:
        """The graph and the rows at the step that is shown."""
        step = self.state()
        p = Picture(0)
        p.text(18, 26, self.view["title"], size=15, bold=True)
        p.text(18, 45, "blue: values of the forward pass; orange: gradients of the backward pass", size=12,
               colour="muted")  # fmt: skip
        right, _ = self._graph(p, 18, 64, step, live=False)
        left = right + 32
        columns = [(0, "row"), (34, "op"), (104, "reads"), (258, "makes"), (336, "value"), (404, "gradient")]
        y = 80.0
        for x, title in columns:
            p.text(left + x, y, title, size=11.5, colour="muted")
        for k, row in enumerate(self.view["rows"], 1):
            y += 22
            if row["id"] == step["row"]:
                p.rect(left - 6, y - 15, TABLE, 21, fill="bend")
            reads = ", ".join(row["reads"])
            cells = [str(k), row["op"], reads if len(reads) < 22 else reads[:20] + "…", row["makes"],
                     step["values"].get(row["id"], ""), step["gradients"].get(row["id"], "")]  # fmt: skip
            for (x, title), text in zip(columns, cells, strict=True):
                colour = {"value": "blue", "gradient": "orange"}.get(title, "ink")
                p.text(left + x, y, text, size=11.5, mono=True, colour=colour)
        p.width = left + TABLE + 12
        return p.svg(self.describe())

    def describe(self) -> str:
        """The rows with their values and gradients in words, and the step."""
        step = self.state()
        rows = []
        for k, row in enumerate(self.view["rows"], 1):
            told = f"row {k}, {row['op']} of {' and '.join(row['reads'])}"
            value, gradient = step["values"].get(row["id"], ""), step["gradients"].get(row["id"], "")
            told += f" = {value}" if value else ""
            rows.append(told + (f", gradient {gradient}" if gradient else ""))
        leaves = [
            f"{self._tensors[int(i)].label} {gradient}"
            for i, gradient in step["gradients"].items() if i not in {row["id"] for row in self.view["rows"]}
        ]  # fmt: skip
        ends = f" Gradients of the inputs: {', '.join(leaves)}." if leaves else ""
        return f"{self.view['title']}. {'; '.join(rows)}.{ends} {step['text']}"


def _step(phase: str, row: int | str, touched: list[int], values: dict, gradients: dict, text: str) -> dict:
    return {"phase": phase, "row": str(row), "touched": [str(i) for i in touched], "values": values,
            "gradients": gradients, "text": text}  # fmt: skip


def _numbered(label: str, op: str | None) -> str:
    """A label for a box; what has no name of its own is marked as a number, not as an operand.

    >>> _numbered("mul 3", "mul"), _numbered("miss", "sub")
    ('mul #3', 'miss')
    """
    return label.replace(" ", " #") if op and label.startswith(f"{op} ") else short(label)


def _r(value: float) -> str:
    """Four significant digits, with a minus sign that is one.

    >>> _r(-0.39562), _r(4096.0), _r(0.0)
    ('−0.3956', '4096', '0')
    """
    return f"{value + 0.0:.4g}".replace("-", "−")


def tape_stepper(run: int | None = None, *, conn: psycopg.Connection | None = None) -> TapeStepper:
    """A recorded run as a graph and as rows, to step through: forward, then backward, with each gradient.

    Scalars show the sum of contributions so far, larger tensors how many of them there are, and their norm.
    run: None is your newest. conn: None is the notebook's connection.
    Errors: KitError where the run has no rows or more than 45, psycopg.Error.
    """
    return TapeStepper(conn, run=run or 0)
