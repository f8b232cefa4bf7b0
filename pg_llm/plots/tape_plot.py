"""The tape drawn as a graph: inputs above, results below."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from pg_llm.plots.plots import BLUE

LONGEST = 26  # characters of a name in a box
ROWS = 45  # more layers than these cannot be read
COLUMN, ROW = 2.3, 0.66  # inches between boxes
ARROW = "#7b8794"
APART = 0.13  # columns between the arrows that end at one box
UNNAMED = re.compile(r"constant \d+")  # so llm_tensor_label calls a larger constant, by its place in the run
Node = str | tuple[str, str, int]  # an operation or input by name; a bend: a line's ends and the layer


def plot_tape(
    frame: pd.DataFrame,
    title: str = "",
    notes: dict | None = None,
    ax: Axes | None = None,
    *,
    names: Mapping[str, str] | None = None,
) -> Axes:
    """Draws the computation graph: operations in blue, what they only read in grey, results below inputs.

    An arrow is one use of a value: what reads a value twice has two arrows from it.
    frame: columns op, name, inputs, shape of pg_llm.tape() or llm_tape_named; choose the rows of one block.
    notes: a line to add to the box of a name; names: what to write in place of a name, such as "constant 2".
    Errors: ValueError for no rows, or too many to read.
    """
    graph = Layered(frame)
    for name in {*(names or {})} & {*graph.label}:
        op, _, shape = graph.label[name]
        graph.label[name] = (op, (names or {})[str(name)], shape)
    if not graph.depth:
        raise ValueError("plot_tape: the frame has no rows; is the run's number right?")
    if max(graph.depth.values()) >= ROWS:
        raise ValueError(
            f"plot_tape: {len(frame)} operations in {max(graph.depth.values()) + 1} layers make no readable "
            "picture; choose a part of the tape, such as the rows whose name begins with h.0."
        )
    x = graph.places()
    if ax is None:
        wide = max(x.values()) - min(x.values()) + 1
        size = (max(3.2, COLUMN * wide), ROW * (max(graph.depth.values()) + 1) + 0.4)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.set_xlim(min(x.values()) - 0.55, max(x.values()) + 0.55)
    ax.set_ylim(max(graph.depth.values()) + 0.6, -0.6)
    ax.axis("off")
    ax.set_title(title, loc="left")
    boxes = {}
    for node in graph.depth:
        if node in graph.label:
            note = (notes or {}).get(node, "")
            boxes[node] = _box(ax, x[node], graph.depth[node], *graph.label[node], note, node in graph.made)
    _arrows(ax, graph, x, boxes)
    return ax


class Layered:
    """Places every node below its inputs; long lines bend around nodes between (Sugiyama et al., 1981).

    depth: layer of each node, the bends of long lines included; paths: lines, as nodes from above to below;
    uses: how often the last node of a path reads the first.
    """

    def __init__(self, frame: pd.DataFrame):
        rows = frame[["op", "name", "inputs", "shape"]].itertuples(index=False)
        self.label: dict[Node, tuple[str, str, str]] = {}
        latest: dict[str, str] = {}
        reads: dict[str, list[str]] = {}
        self.uses: Counter[tuple[Node, Node]] = Counter()
        for n, (op, name, inputs, shape) in enumerate(rows):
            name = name if isinstance(name, str) else ""  # pandas may hold NaN for NULL
            key = name if name and name not in reads else f"{name or op} #{n}"
            # A name can be produced twice; later readers read the later value.
            self.uses.update((latest.get(i, i), key) for i in inputs)
            reads[key] = [latest.get(i, i) for i in dict.fromkeys(inputs)]
            latest[name or key] = key
            own = name and not name.startswith(f"{op} ")  # the views call the third sum "add 3"
            self.label[key] = (str(op), short(name) if own else "", _shape(shape))
        self.made: set[Node] = {*reads}
        for inputs in list(reads.values()):
            for i in inputs:
                if i not in reads:
                    self.label[i] = ("", short(i), "")
        self.depth = _depths(reads)
        self.paths: list[list[Node]] = []
        self._above: dict[Node, list[Node]] = {n: [] for n in self.depth}
        for node, inputs in reads.items():
            for i in inputs:
                self._connect(i, node)

    def _connect(self, above: str, below: str) -> None:
        path: list[Node] = [above]
        for layer in range(self.depth[above] + 1, self.depth[below]):
            bend = (above, below, layer)
            self.depth[bend], self._above[bend] = layer, [path[-1]]
            path.append(bend)
        self._above[below].append(path[-1])
        self.paths.append([*path, below])

    def places(self) -> dict[Node, float]:
        """x of each node: near the mean of its neighbours, at least a width apart within its layer."""
        below: dict[Node, list[Node]] = {n: [] for n in self.depth}
        for node, above in self._above.items():
            for a in above:
                below[a].append(node)
        layers: dict[int, list[Node]] = {}
        for node, layer in self.depth.items():
            layers.setdefault(layer, []).append(node)
        x: dict[Node, float] = {}
        for layer in sorted(layers):
            self._spread(layers[layer], x, self._above)
        for sweep in range(8):
            down = sweep % 2
            for layer in sorted(layers, reverse=not down):
                near = self._above if down else below
                self._spread(layers[layer], x, near)
        return x

    def arrows(self, x: dict[Node, float]) -> Iterator[tuple[list[Node], float, float]]:
        """Each use of a value: its path, and how many gaps its start and its end stand aside of the middle.

        x: places(). The arrows to one node are in the order of where they come from.
        """
        into: dict[Node, list[tuple[list[Node], float]]] = {}
        for path in self.paths:
            uses = self.uses[path[0], path[-1]]
            into.setdefault(path[-1], []).extend((path, k - (uses - 1) / 2) for k in range(uses))
        for arrows in into.values():
            arrows.sort(key=lambda arrow: (x[arrow[0][-2]], arrow[1]))
            for k, (path, start) in enumerate(arrows):
                yield path, start, k - (len(arrows) - 1) / 2

    def _width(self, node: Node) -> float:
        return 1.0 if node in self.label else 0.35

    def _spread(self, nodes: list[Node], x: dict[Node, float], near: dict[Node, list[Node]]) -> None:
        """Moves a layer's nodes to the mean of their neighbours, as far as their widths permit."""
        want = {}
        for n in nodes:
            known = [(x[m], self._pull(m)) for m in near[n] if m in x]
            pull = sum(p for _, p in known)
            want[n] = sum(at * p for at, p in known) / pull if pull else x.get(n, 0.0)
        order = sorted(nodes, key=lambda n: (want[n], x.get(n, 0.0)))
        at: list[float] = []
        right: float | None = None
        for n in order:
            at.append(want[n] if right is None else max(want[n], right + self._width(n) / 2))
            right = at[-1] + self._width(n) / 2
        # Nodes that had to move right move back as a group, heavy nodes least.
        off = sum((a - want[n]) * self._pull(n) for a, n in zip(at, order, strict=True))
        off /= sum(self._pull(n) for n in order)
        x.update({n: a - off for a, n in zip(at, order, strict=True)})

    def _pull(self, node: Node) -> float:
        """Operations are aligned vertically; inputs and bends make room for them."""
        return 1.0 if node in self.made else 0.05


def _depths(reads: dict[str, list[str]]) -> dict[Node, int]:
    """Layers from the inputs down; a node that is only read is right above its first reader."""
    depth: dict[Node, int] = {}
    for node, inputs in reads.items():  # rows of a tape come after their inputs
        depth[node] = 1 + max((depth.get(i, 0) for i in inputs), default=-1)
    for node, inputs in reads.items():
        for i in inputs:
            if i not in reads:
                depth[i] = min(depth.get(i, depth[node] - 1), depth[node] - 1)
    return depth


def _arrows(ax: Axes, graph: Layered, x: dict[Node, float], boxes: dict) -> None:
    """An arrow for every use of a value, from box to box; those that end at one box keep apart."""
    ax.figure.canvas.draw()  # fixes where the boxes' edges are
    edges = {n: box.get_window_extent().transformed(ax.transData.inverted()) for n, box in boxes.items()}
    for path, first, last in graph.arrows(x):
        above, below, aside = path[0], path[-1], APART * first
        end = (x[below] + APART * last, min(edges[below].y0, edges[below].y1))
        start = (x[above] + aside, max(edges[above].y0, edges[above].y1))
        _arrow(ax, [start, *((x[n] + aside, float(graph.depth[n])) for n in path[1:-1]), end])


def _arrow(ax: Axes, points: list[tuple[float, float]]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        vertices += [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2), (x1, y1)]
        codes += [Path.CURVE4] * 3
    ax.add_patch(
        FancyArrowPatch(
            path=Path(vertices, codes), arrowstyle="-|>,head_length=4.5,head_width=2.2", mutation_scale=1,
            facecolor=ARROW, edgecolor=ARROW, lw=1.1, zorder=1,
        )
    )  # fmt: skip


def _box(ax, x: float, y: float, op: str, name: str, shape: str, note: str, made: bool):
    lines = [op, f"{name if name != op else ''}  {shape}".strip(), note] if made else [name, note]
    text = ax.text(
        x, y, "\n".join(line for line in lines if line),
        ha="center", va="center", fontsize=8.5, color="white" if made else "#333", linespacing=1.25, zorder=2,
        bbox={"boxstyle": "round,pad=0.35", "fc": BLUE if made else "#e8edf2", "ec": "none"},
    )  # fmt: skip
    return text.get_bbox_patch()


def short(name: str) -> str:
    """A name shortened to fit into a box: its end is the most informative part."""
    if UNNAMED.fullmatch(name):
        return "a constant"  # "constant 2" reads like the number 2
    return name if len(name) <= LONGEST else "…" + name[-LONGEST + 1 :]


def _shape(shape) -> str:
    return f"({','.join(map(str, shape))})" if shape else ""
