"""pg-llm class watch: what each student of the class trained last, read from the students' databases."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from dataclasses import dataclass, replace

import psycopg

from pg_llm import catalog
from pg_llm.course import students
from pg_llm.errors import KitError
from pg_llm.server.connect import maintenance

TOKENIZER = "classroom"  # of the stories, whose entropy is known
HASH_SECONDS = 5  # a model whose SHA-256 takes longer has none here
POINTS = 24  # of a curve
BARS = "▁▂▃▄▅▆▇█"

# The newest step of all models, its run's means in POINTS pieces, and the mean of the last steps.
NEWEST = """
    SELECT l.model, l.step, r.first_step + r.n_steps, l.loss, c.tokenizer, v.version,
        (SELECT avg(n.loss)::float8 FROM (SELECT loss FROM {0}.llm_train_log WHERE run = l.run
            ORDER BY step DESC LIMIT 20) AS n),
        (SELECT array_agg(p.loss ORDER BY p.piece) FROM (SELECT t.piece, avg(t.loss)::float8 AS loss
            FROM (SELECT loss, ntile(%s) OVER (ORDER BY step) AS piece FROM {0}.llm_train_log
                WHERE run = l.run) AS t GROUP BY t.piece) AS p)
    FROM (SELECT * FROM {0}.llm_train_log ORDER BY id DESC LIMIT 1) AS l
    JOIN {0}.llm_train_run AS r ON r.run = l.run
    LEFT JOIN {0}.llm_model_config AS c ON c.model = l.model
    LEFT JOIN {0}.llm_model_version AS v ON v.model = l.model
"""
# Databases in which a student is at work, besides the own one.
BUSY = """
    SELECT DISTINCT usename::text, datname::text FROM pg_stat_activity
    WHERE usename = ANY (%s::name[]) AND datname IS NOT NULL
"""


@dataclass(frozen=True)
class Seen:
    """What a student trained last. of: the run's last step. above: the last 20 steps' mean loss over the
    entropy of the stories, as a fraction; None for other tokenizers. problem: why there is nothing."""

    student: str
    model: str = ""
    step: int = 0
    of: int | None = None
    loss: float | None = None
    above: float | None = None
    curve: tuple[float, ...] = ()
    sha256: str | None = None
    same: tuple[str, ...] = ()
    problem: str = ""


class Watch:
    """Looks at the class again and again; remembers what does not change in between."""

    def __init__(self) -> None:
        self.hashes: dict[tuple, str | None] = {}
        self.floor: float | None = None

    def look(self) -> list[Seen]:
        """What each student trained last, by name. Errors: KitError if the class is empty."""
        names = [each.name for each in students.listed()]
        if not names:
            raise KitError("the class has no students yet: pg-llm class add NAME…")
        with maintenance() as conn:
            busy = conn.execute(BUSY, [names]).fetchall()
        seen = []
        for name in names:
            there = [name, *sorted(database for user, database in busy if user == name != database)]
            found = [self._in(name, database) for database in there]
            # The first that has trained something; of several, that with the most steps.
            seen.append(max(found, key=lambda each: (bool(each.model), each.step)))
        count = Counter(each.sha256 for each in seen if each.sha256)
        return [
            replace(each, same=tuple(o.student for o in seen if o.sha256 == each.sha256 and o is not each))
            if each.sha256 and count[each.sha256] > 1
            else each
            for each in seen
        ]

    def lines(self) -> list[str]:
        """The class as a table of text."""
        rows: list[tuple[str, ...]] = [
            ("student", "model", "step", "loss", "above", "curve", "same weights as")
        ]
        for each in self.look():
            if each.loss is None:
                rows.append((_shown(each.student), each.problem or "-", "", "", "", "", ""))
                continue
            rows.append(_row(each))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        floor = "" if self.floor is None else f" ({self.floor:.4f} nats per token)"
        return [*table, f"above: the last 20 steps' loss over the entropy of the stories{floor}"]

    def _in(self, student: str, database: str) -> Seen:
        try:
            with contextlib.closing(students.enter(database, f"{HASH_SECONDS}s", "500ms")) as conn:
                if database != student and not _is_kits(conn):
                    return Seen(student)
                found = conn.execute(catalog.qualified(conn, NEWEST), [POINTS]).fetchone()
                if found is None:
                    return Seen(student)
                model, step, of, loss, tokenizer, version, recent, curve = found
                above = None
                if tokenizer == TOKENIZER:
                    above = recent / self._floor(conn) - 1
                sha256 = self._hash(conn, (database, model, version))
                return Seen(student, model, step, of, loss, above, tuple(curve), sha256)
        except (KitError, psycopg.Error) as error:
            reason = re.sub(r".*FATAL: ", "", " ".join(str(error).split()))
            return Seen(student, problem=_shown(reason, 60))

    def _floor(self, conn: psycopg.Connection) -> float:
        if self.floor is None:
            query = "SELECT nats_per_token FROM {0}.llm_story_floor(-1000, 1000)"
            self.floor = float(catalog.value(conn, catalog.qualified(conn, query)))
        return self.floor

    def _hash(self, conn: psycopg.Connection, key: tuple) -> str | None:
        """The model's SHA-256, computed once for each version; None if it takes too long."""
        if key not in self.hashes:
            self.hashes[key] = None
            with contextlib.suppress(psycopg.Error):
                query = catalog.qualified(conn, "SELECT {0}.llm_model_sha256(%s)")
                self.hashes[key] = catalog.value(conn, query, [key[1]])
        return self.hashes[key]


def sparkline(values: tuple[float, ...]) -> str:
    """A curve as a line of bars.

    >>> sparkline((3.0, 2.0, 1.0))
    '█▅▁'
    """
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return "?" * len(values)
    low, high = min(finite), max(finite)
    step = (high - low) / (len(BARS) - 1) or 1
    return "".join(BARS[round((value - low) / step)] if value in finite else "?" for value in values)


def _row(each: Seen) -> tuple[str, ...]:
    of = f"{each.step}/{each.of}" if each.of else str(each.step)
    above = "-" if each.above is None else f"{each.above:+.1%}"
    same = ", ".join(map(_shown, each.same))
    return (
        _shown(each.student), _shown(each.model), of, f"{each.loss:.4f}", above, sparkline(each.curve), same
    )  # fmt: skip


def _is_kits(conn: psycopg.Connection) -> bool:
    return conn.execute("SELECT 1 FROM pg_extension WHERE extname = 'pg_llm'").fetchone() is not None


def _shown(text: str, width: int = 40) -> str:
    """A student's text for a terminal: no control characters, and not too long."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= width else plain[: width - 1] + "…"
