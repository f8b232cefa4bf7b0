"""Places of a graph's nodes: a level for each step of the longest path, long arrows in lanes at the side."""

from __future__ import annotations

from dataclasses import dataclass, field

from pg_llm.widgets.picture import n

WIDTH, HEIGHT, STEP, GAP, LANE = 216.0, 38.0, 56.0, 18.0, 12.0


@dataclass
class Node:
    """A row of llm_graph, or a block of rows: its inputs and its parameters."""

    name: str
    op: str
    inputs: list[str]
    shape: list[str] | None
    weights: list[str] = field(default_factory=list)


@dataclass
class Edge:
    """An arrow: down to the next level, or along a lane (its x) past the levels between."""

    x: float
    y: float
    to_x: float
    to_y: float
    lane: float | None = None

    @property
    def sideways(self) -> bool:
        """Whether the arrow enters its node from the right."""
        return self.lane is not None

    def path(self, at: float, top: float) -> str:
        """The arrow in SVG's notation, moved by (at, top)."""
        x, y, tx, ty = self.x + at, self.y + top, self.to_x + at, self.to_y + top
        if self.lane is None:
            if abs(x - tx) < 1:
                return f"M{n(x)} {n(y)} V{n(ty - 5)}"
            middle = (y + ty) / 2
            return f"M{n(x)} {n(y)} C{n(x)} {n(middle)} {n(tx)} {n(middle - 4)} {n(tx)} {n(ty - 5)}"
        lane, r = self.lane + at, 8
        return f"M{n(x)} {n(y)} H{n(lane - r)} q{r} 0 {r} {r} V{n(ty - r)} q0 {r} -{r} {r} H{n(tx + 5)}"

    def tip(self, at: float, top: float) -> tuple[float, float]:
        """Where the arrow ends."""
        return self.to_x + at, self.to_y + top


class Column:
    """The nodes of a graph with their places: x and y of each one's top left corner, by name."""

    def __init__(self, title: str, nodes: list[Node]):
        self.title = title
        self.nodes = ordered(nodes)
        self.level = levels(self.nodes)
        self.depth = max(self.level.values(), default=0) + 1
        self.x: dict[str, float] = {}
        self.y = {name: level * STEP for name, level in self.level.items()}
        self._place()
        self.edges = self._edges()
        self.left = min(self.x.values(), default=0)
        right = max((x + WIDTH for x in self.x.values()), default=WIDTH)
        lanes = [e.lane for e in self.edges if e.lane is not None]
        self.width = max([right, *lanes]) - self.left

    def _place(self) -> None:
        for level in range(self.depth):
            row = [node for node in self.nodes if self.level[node.name] == level]
            wanted = {}
            for node in row:
                above = [i for i in node.inputs if self.level.get(i) == level - 1]
                above = above or [i for i in node.inputs if i in self.level]
                if above:
                    wanted[node.name] = sum(self.x[i] for i in above) / len(above)
            sources = [node.name for node in row if node.name not in wanted]
            names = sorted(wanted, key=lambda name: wanted[name]) + sources
            middle = sum(wanted.values()) / len(wanted) if wanted else 0.0
            count = len(names) if not wanted else len(wanted)
            start = middle - (count - 1) * (WIDTH + GAP) / 2
            for k, name in enumerate(names):
                self.x[name] = start + k * (WIDTH + GAP)
        # A node that alone feeds one node stands above it.
        for node in reversed(self.nodes):
            below = [other for other in self.nodes if node.name in other.inputs]
            alone = [m for m in self.nodes if self.level[m.name] == self.level[node.name]]
            if not node.inputs and len(below) == 1 and len(alone) == 1:
                self.x[node.name] = self.x[below[0].name]

    def _edges(self) -> list[Edge]:
        straight, long = [], []
        for node in self.nodes:
            near = [i for i in node.inputs if self.level.get(i) == self.level[node.name] - 1]
            for name in dict.fromkeys(i for i in node.inputs if i in self.level):
                if name in near:
                    shift = (near.index(name) - (len(near) - 1) / 2) * 24 if len(near) > 1 else 0
                    to_x = self.x[node.name] + WIDTH / 2 + shift
                    straight.append(
                        Edge(self.x[name] + WIDTH / 2, self.y[name] + HEIGHT, to_x, self.y[node.name])
                    )
                else:
                    long.append((self.level[name], self.level[node.name], name, node.name))
        return straight + self._lanes(long)

    def _lanes(self, long: list[tuple[int, int, str, str]]) -> list[Edge]:
        """Lanes for the arrows that skip levels, the shortest nearest to the nodes."""
        taken: list[tuple[float, int, int]] = []
        edges = []
        for start, stop, source, target in sorted(long, key=lambda e: (e[1] - e[0], e[0])):
            between = [name for name, level in self.level.items() if start <= level <= stop]
            lane = max(self.x[name] + WIDTH for name in between) + 2 * LANE
            while any(abs(lane - x) < LANE and start < b and a < stop for x, a, b in taken):
                lane += LANE
            taken.append((lane, start, stop))
            edges.append(
                Edge(self.x[source] + WIDTH, self.y[source] + HEIGHT * 0.7, self.x[target] + WIDTH,
                     self.y[target] + HEIGHT * 0.3, lane)
            )  # fmt: skip
        return edges


def ordered(nodes: list[Node]) -> list[Node]:
    """Nodes so that each comes after those it reads; else in the order given."""
    names = {node.name for node in nodes}
    done: set[str] = set()
    left, result = list(nodes), []
    while left:
        ready = next((m for m in left if all(i in done or i not in names for i in m.inputs)), left[0])
        left.remove(ready)
        done.add(ready.name)
        result.append(ready)
    return result


def levels(nodes: list[Node]) -> dict[str, int]:
    """The longest path to each node; a node without inputs stands right above its first reader."""
    level: dict[str, int] = {}
    for node in nodes:
        level[node.name] = max((level[i] + 1 for i in node.inputs if i in level), default=0)
    for node in nodes:
        readers = [level[other.name] for other in nodes if node.name in other.inputs]
        if not node.inputs and readers:
            level[node.name] = max(0, min(readers) - 1)
    return level
