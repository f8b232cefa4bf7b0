"""The embedding map: vectors as points in the plane, and the nearest ones of a chosen one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.widgets import words
from pg_llm.widgets.base import CSS, Database, Widget, script, undone
from pg_llm.widgets.picture import LETTER, Picture, n, shown

NEAREST = 8
MOST = 600  # points of a map
WIDTH, HEIGHT, SIZE = 640.0, 420.0, 11.0  # of the map, and of its letters
# colour and shape of each kind, in the order of the legend; told apart without colour, too
MARKS = (
    ("#0072b2", "●"), ("#d55e00", "▲"), ("#009e73", "■"), ("#cc79a7", "◆"),
    ("#e69f00", "▼"), ("#56b4e9", "●"), ("#8a6d3b", "■"), ("#56b4e9", "◆"), ("#009e73", "▲"),
)  # fmt: skip
OTHER = ("#8a949e", "●")
ROWS = (
    "SELECT token_id::text AS key, data AS vector FROM {0}.llm_param_row WHERE model = %(m)s AND name = %(p)s"
)
NEAR = (
    "WITH source AS ({source}), chosen AS (SELECT vector FROM source WHERE key = %(key)s LIMIT 1) "
    "SELECT s.key, ({0}.tensor_sum(s.vector * c.vector) / ({0}.norm(s.vector) * {0}.norm(c.vector)))::real "
    "AS cosine FROM source AS s, chosen AS c WHERE {0}.norm(s.vector)::real > 0 AND s.key <> %(key)s "
    "ORDER BY cosine DESC, s.key LIMIT %(n)s"
)


class EmbeddingMap(Widget):
    """The widget that pg_llm.embedding_map returns; chosen is the key of the chosen point."""

    _esm = script("embeddings")
    _css = CSS

    title = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)

    controls = ("chosen",)

    def __init__(
        self,
        conn: psycopg.Connection | None,
        model: str,
        parameter: str,
        query: str | None,
        labels: Sequence[str] | None,
    ):
        self.model, self.parameter, self.query, self.labels = model, parameter, query, labels
        super().__init__(conn, title="rows of a query" if query else f"{parameter} of {model}")

    # -- what is read ----

    def look(self, db: Database) -> dict:
        """Points with their labels and kinds, and the neighbours of the chosen one."""
        rows = self._of_query(db) if self.query else self._of_parameter(db)
        if len(rows) < 3:
            raise KitError(f"the map needs three vectors or more; {self.title} gave {len(rows)}")
        lengths = {len(vector) for _, _, _, vector in rows}
        if len(lengths) > 1:
            raise KitError(f"the vectors have different lengths: {', '.join(map(str, sorted(lengths)))}")
        keys = [row[0] for row in rows]
        if self.chosen not in keys:  # a name, where there are names
            self.set_trait("chosen", next((key for key, _, kind, _ in rows if kind == "first name"), keys[0]))
        xy, self._share = principal(unit(np.array([row[3] for row in rows], np.float64)))
        self._points: list[dict[str, Any]] = [
            {"key": key, "label": label, "kind": kind, "x": float(x), "y": float(y)}
            for (key, label, kind, _), (x, y) in zip(rows, xy, strict=True)
        ]
        counts = Counter(p["kind"] for p in self._points if p["kind"])
        self._kinds = sorted(counts, key=lambda kind: (kind == "other", -counts[kind]))
        self._near = self._neighbours(db)
        return {
            "points": [{"key": p["key"], "label": p["label"], "kind": p["kind"]} for p in self._points],
            "near": self._near,
            "svg": self._map(live=True),
            "sql": self._statement(),
        }

    def _of_query(self, db: Database) -> list[tuple[str, str, str, np.ndarray]]:
        """Key, label, kind and vector of each row of the learner's query: label, vector and perhaps kind."""
        cursor = db.conn.cursor(binary=True)  # large vectors, too, with all of their values
        cursor.execute(self.query)  # type: ignore[arg-type]
        names = [column.name for column in cursor.description or ()]
        if not 2 <= len(names) <= 3:
            raise KitError(
                f"the query gives the columns {', '.join(names) or 'none'}; expected label, vector and, if "
                "you like, kind"
            )
        rows = cursor.fetchmany(MOST + 1)
        if len(rows) > MOST:
            raise KitError(f"the query gives more than {MOST} rows, too many for a map: add LIMIT {MOST}")
        found = []
        for label, vector, *kind in rows:
            if not isinstance(vector, np.ndarray) or vector.ndim != 1:
                raise KitError(
                    f"the second column of the query must be a vector (a tensor); got {vector!r:.60}"
                )
            found.append(
                (str(label), str(label), str(kind[0]) if kind and kind[0] is not None else "", vector)
            )
        return found

    def _of_parameter(self, db: Database) -> list[tuple[str, str, str, np.ndarray]]:
        """The same of rows of a parameter: of wte.weight those of whole words, of others all."""
        tokenizer = words.tokenizer_of(db, self.model)
        chosen = {} if self.parameter != "wte.weight" else self._words(db, tokenizer)
        query = "SELECT token_id, data FROM {0}.llm_param_row WHERE model = %(m)s AND name = %(p)s"
        if chosen:
            query += " AND token_id = ANY (%(ids)s)"
        rows = db.rows(query + " ORDER BY token_id LIMIT %(n)s",
                       binary=True, m=self.model, p=self.parameter, ids=[*chosen], n=MOST)  # fmt: skip
        if not rows:
            known = db.rows("SELECT DISTINCT name FROM {0}.llm_param_row WHERE model = %(m)s", m=self.model)
            names = ", ".join(sorted(name for (name,) in known)) or "none, for there is no such model"
            raise KitError(
                f"model {self.model!r} has no matrix {self.parameter!r} of one vector a row; it has {names}"
            )
        kinds = words.kinds(db) if tokenizer == words.CLOSED and chosen else {}
        return [
            (
                str(i),
                shown(chosen[i]) if chosen else str(i),
                kinds.get(chosen[i], "other") if kinds else "",
                vector,
            )
            for i, vector in rows
        ]

    def _words(self, db: Database, tokenizer: str) -> dict[int, str]:
        """Token id to token, of those on the map."""
        if self.labels is not None:
            found = {}
            for word in self.labels:
                for text in dict.fromkeys((word, f" {word}")):
                    ids = db.value("SELECT {0}.llm_encode(%(t)s, %(m)s)", t=text, m=tokenizer)
                    if len(ids) == 1:
                        found[ids[0]] = text
                        if text != word:
                            break
                if not any(text.strip() == word.strip() for text in found.values()):
                    raise KitError(f"{word!r} is no single token of {tokenizer}; the map shows tokens")
            return found
        if tokenizer == words.CLOSED:
            texts = sorted(words.story_words(db))
            rows = db.rows(
                "SELECT ({0}.llm_encode(t, %(m)s))[1], t FROM unnest(%(t)s::text[]) AS t "
                "WHERE cardinality({0}.llm_encode(t, %(m)s)) = 1 AND t ~ '^ ?[A-Za-z]'", m=tokenizer, t=texts,
            )  # fmt: skip
        else:
            rows = db.rows(
                "SELECT v.token_id, t.text FROM {0}.llm_bpe_vocab AS v, "
                "LATERAL (SELECT {0}.llm_decode(ARRAY[v.token_id], %(m)s) AS text) AS t "
                "WHERE v.model = %(m)s AND v.token_id < 3000 AND t.text ~ '^ [A-Za-z]{{3,}}$' "
                "ORDER BY v.token_id LIMIT 300", m=tokenizer,
            )  # fmt: skip
        return dict(rows)

    def _source(self) -> str:
        if self.query is None:
            return ROWS
        text = self.query.strip().rstrip(";").replace("{", "{{").replace("}", "}}").replace("%", "%%")
        columns = "key, vector, kind" if self._kinds else "key, vector"
        return f"SELECT key::text, vector FROM (\n{text}\n) AS q ({columns})"

    def _neighbours(self, db: Database) -> list[dict]:
        """The nearest rows, of all that the source has."""
        query = NEAR.replace("{source}", self._source())
        rows = db.rows(query, m=self.model, p=self.parameter, key=self.chosen, n=NEAREST)
        known = {p["key"]: p["label"] for p in self._points}
        found = []
        for key, cosine in rows:
            if key not in known and self.parameter == "wte.weight" and not self.query:
                known[key] = shown(
                    db.value("SELECT {0}.llm_decode(%(i)s::int[], %(m)s)", i=[int(key)], m=self.model)
                )
            found.append({"key": key, "label": known.get(key, key), "cosine": cosine})
        return found

    def _statement(self) -> str:
        """The query of the neighbours, for a reader."""
        text = NEAR.replace("{source}", self._source()).replace("{0}.", "")
        values = {"m": self.model, "p": self.parameter, "key": self.chosen}
        for name, value in values.items():
            text = text.replace(f"%({name})s", "'" + value.replace("'", "''") + "'")
        text = text.replace("%(n)s", str(NEAREST)).replace("%%", "%").replace("{{", "{").replace("}}", "}")
        return text.replace(", chosen AS", ",\nchosen AS").replace(") SELECT", ")\nSELECT") + ";"

    def choose(self, label: str) -> None:
        """Chooses a point by its label, the space before a word left out or not. Errors: KitError."""
        wanted = label.strip().lower()
        for same in (lambda p: p["label"] == shown(label), lambda p: _plain(p["label"]) == wanted):
            if found := [p for p in self._points if same(p)]:
                self.chosen = found[0]["key"]
                return
        raise KitError(f"no point of the map is labelled {label!r}")

    # -- the picture ----

    def _chosen(self) -> dict:
        return next((p for p in self._points if p["key"] == self.chosen), self._points[0])

    def describe(self) -> str:
        """What the map shows, and the neighbours, in words."""
        text = (
            f"Embedding map: {len(self._points)} vectors, {self.title}, by their two principal components, "
            f"which have {round(100 * self._share)} % of the variance."
        )
        if self._kinds:
            counts = Counter(p["kind"] for p in self._points)
            text += " Kinds: " + ", ".join(f"{kind} ({counts[kind]})" for kind in self._kinds) + "."
        near = ", ".join(f"“{each['label']}” {each['cosine']:.2f}" for each in self._near)
        return text + f" Nearest to “{self._chosen()['label']}” by cosine: {near}."

    def draw(self) -> str:
        """The map, its legend, and the neighbours of the chosen point."""
        return self._map(live=False)

    def _map(self, live: bool) -> str:
        p = Picture(WIDTH if live else WIDTH + 190, live)
        top = 8.0 if live else 44.0
        if not live:
            p.text(18, 26, f"Embedding map: {self.title}", bold=True)
        near = {each["key"] for each in self._near}
        self._draw_points(p, top, near, live)
        self._legend(p, top + HEIGHT + 22)
        if not live:
            self._list(p, WIDTH + 6, top + 14)
        return p.svg(self.describe())

    def _draw_points(self, p: Picture, top: float, near: set[str], live: bool) -> None:
        x = np.array([point["x"] for point in self._points])
        y = np.array([point["y"] for point in self._points])
        scale = min(
            (WIDTH - 80) / (np.ptp(x) or 1), (HEIGHT - 24) / (np.ptp(y) or 1)
        )  # the same for both axes
        across = (WIDTH - 40) / 2 + (x - (x.max() + x.min()) / 2) * scale
        down = top + HEIGHT / 2 - (y - (y.max() + y.min()) / 2) * scale
        chosen = self._chosen()["key"]
        first = next(k for k, point in enumerate(self._points) if point["key"] == chosen)
        for k, point in enumerate(self._points):
            if point["key"] in near:
                p.path(
                    f"M{n(across[first])} {n(down[first])} L{n(across[k])} {n(down[k])}", line="line", width=1
                )
        labelled = self._labelled(across, down, near | {chosen})
        for k, point in enumerate(self._points):
            colour, mark = self._mark(point["kind"])
            weight = "chosen" if point["key"] == chosen else "near" if point["key"] in near else ""
            inner = shape(mark, across[k], down[k], 5.5 if weight else 3.6)
            ring = f' stroke="{p.colour("ink")}" stroke-width="2"' if weight == "chosen" else ""
            what = f"{point['label']}, {point['kind']}" if point["kind"] else point["label"]
            live_part = (
                f' class="pgl-point" data-key="{escape(point["key"])}" role="button" tabindex="-1" '
                f'aria-label="{escape(what)}" aria-pressed="{str(weight == "chosen").lower()}"'
            )
            opens = f"<g{live_part * live}><title>{escape(what)}</title>"
            p.add(f'{opens}<path d="{inner}" fill="{colour}"{ring}/>')
            if k in labelled:
                p.text(
                    across[k] + 7, down[k] + 4, point["label"].replace("␣", ""), size=SIZE, bold=bool(weight)
                )
            p.add("</g>")
        p.height = max(p.height, top + HEIGHT)

    def _labelled(self, across: np.ndarray, down: np.ndarray, first: set[str]) -> set[int]:
        """The points whose labels are written: the chosen one, its neighbours, others that hide no point."""
        chosen = self._chosen()["key"]
        keys = [point["key"] for point in self._points]
        order = sorted(range(len(keys)), key=lambda k: (keys[k] != chosen, keys[k] not in first, k))
        points = [(a - 4, a + 4, b) for a, b in zip(across, down, strict=True)]
        labels: dict[int, tuple[float, float, float]] = {}
        for k in order:
            left, y = across[k] + 5, down[k]
            right = left + len(self._points[k]["label"]) * LETTER * SIZE
            taken = [*labels.values(), *([] if keys[k] in first else points)]
            if right < WIDTH and not any(a < right and left < b and abs(y - c) < 11 for a, b, c in taken):
                labels[k] = (left, right, y)
        return {*labels}

    def _mark(self, kind: str) -> tuple[str, str]:
        place = self._kinds.index(kind) if kind in self._kinds else 0
        return OTHER if kind == "other" or place >= len(MARKS) else MARKS[place]

    def _legend(self, p: Picture, y: float) -> None:
        x = 18.0
        for kind in self._kinds:
            colour, mark = self._mark(kind)
            width = 24 + len(kind) * LETTER * 12
            if x + width > WIDTH:
                x, y = 18.0, y + 18
            p.add(f'<path d="{shape(mark, x, y - 4, 4.5)}" fill="{colour}"/>', y + 6)
            p.text(x + 10, y, kind, size=12, colour="muted")
            x += width
        text = f"axes: principal components, {round(100 * self._share)} % of the variance"
        p.text(18, y + 20, text, size=11.5, colour="muted")

    def _list(self, p: Picture, x: float, y: float) -> None:
        p.text(x, y, f"nearest to “{_plain(self._chosen()['label'], False)}”", size=12, colour="muted")
        p.text(x, y + 15, "by cosine", size=12, colour="muted")
        for k, each in enumerate(self._near):
            p.text(x, y + 38 + 19 * k, each["label"], mono=True, size=12.5)
            p.text(x + 170, y + 38 + 19 * k, f"{each['cosine']:.2f}", size=12.5, anchor="end")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, C) at length 1, so that only their directions count, as in the cosine; zero stays zero.

    >>> unit(np.array([[0.0, 2.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def principal(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components of vectors (N, C) as points (N, 2), and their share of the variance.

    The sign of each is fixed: its largest coordinate is positive.

    >>> principal(np.array([[0.0, 0], [3, 0], [0, 1]]))[0].shape
    (3, 2)
    """
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    points = centred @ axes[:2].T
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    total = float((sizes**2).sum())
    return points, float((sizes[:2] ** 2).sum()) / total if total else 1.0


def shape(mark: str, x: float, y: float, r: float) -> str:
    """The outline of a mark around a point, as an SVG path."""
    corners = {
        "■": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "▲": [(0, -1.3 * r), (1.2 * r, r), (-1.2 * r, r)],
        "▼": [(0, 1.3 * r), (1.2 * r, -r), (-1.2 * r, -r)],
        "◆": [(0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)],
    }.get(mark)
    if corners is None:
        return f"M{n(x - r)} {n(y)} a{n(r)} {n(r)} 0 1 0 {n(2 * r)} 0 a{n(r)} {n(r)} 0 1 0 {n(-2 * r)} 0Z"
    return "M" + " L".join(f"{n(x + a)} {n(y + b)}" for a, b in corners) + "Z"


def _plain(label: str, lower: bool = True) -> str:
    text = label.replace("␣", " ").strip()
    return text.lower() if lower else text


def embedding_map(
    model: str | None = None,
    *,
    parameter: str = "wte.weight",
    query: str | None = None,
    words: Sequence[str] | None = None,
    chosen: str | None = None,
    conn: psycopg.Connection | None = None,
) -> EmbeddingMap:
    """The vectors of tokens as points in the plane (their two principal components), and their neighbours.

    A point or a search chooses a token; its nearest vectors by cosine come from one query over all rows.
    model: None is the default model. parameter: wte.weight shows whole words, coloured by kind for the
    classroom's; another matrix, such as wpe.weight, its rows. words: these instead, each one token.
    query: SQL for the points instead: label, vector (C) and, if there is a third column, kind; up to 600.
    chosen: a label. conn: None is the notebook's connection. Errors: KitError, psycopg.Error.
    Example: embedding_map(query="SELECT token, data FROM my_embedding")
    """
    if model is None and query is None:
        with undone(conn) as db:
            model = db.value("SELECT {0}.llm_default_model()")
    view = EmbeddingMap(conn, model or "", parameter, query, words)
    if chosen is not None:
        view.choose(chosen)
    return view
