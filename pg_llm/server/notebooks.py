"""Which database belongs to which notebook: the note on a database holds the path of the notebook's file.

Two notebooks of one name have two databases. A database without a path, which a program or an older version
of the kit made, goes to the first notebook of its name; one that a notebook left for another, only to a
notebook that adopts it.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePath

import psycopg
from psycopg import sql

from pg_llm.errors import KitError
from pg_llm.server import database as databases
from pg_llm.server import template
from pg_llm.server.connect import deciding, maintenance

# Databases that this role works in: its own, or for a superuser those of all superusers.
USABLE = """
    SELECT d.datname, shobj_description(d.oid, 'pg_database'),
        (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.backend_type = 'client backend'),
        CASE WHEN %s THEN pg_database_size(d.oid) END
    FROM pg_database d JOIN pg_roles owner ON owner.oid = d.datdba
        JOIN pg_roles me ON me.rolname = session_user
    WHERE NOT d.datistemplate AND d.datallowconn AND (owner.oid = me.oid OR owner.rolsuper AND me.rolsuper)
    ORDER BY d.datname
"""


@dataclass(frozen=True)
class Made:
    """A database that the kit made for this role; bytes only where they were asked for."""

    database: str
    note: dict
    sessions: int
    bytes: int | None = None

    @property
    def notebook(self) -> str | None:
        """The path of the notebook that it belongs to."""
        return self.note.get("notebook")

    @property
    def left(self) -> str | None:
        """The path of the notebook that it belonged to, which has another one now."""
        return self.note.get("left")

    @property
    def awaits(self) -> bool:
        """True if the next notebook of its name may have it: it is no notebook's and no program's work."""
        return not (self.notebook or self.left or "pid" in self.note)

    @property
    def used(self) -> datetime | None:
        """When a notebook last opened it."""
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return datetime.fromisoformat(self.note["used"])
        return None

    @property
    def gone(self) -> bool:
        """True if its notebook's file is no longer where it was."""
        return bool(self.notebook) and not os.path.exists(self.notebook or "")

    def facts(self) -> dict:
        """What a program wants to know, for JSON."""
        facts = {"database": self.database, "notebook": self.notebook, "notebook_gone": self.gone}
        used = self.used.isoformat() if self.used else None
        facts["left_by"] = self.left
        return {**facts, "bytes": self.bytes, "last_used": used, "sessions": self.sessions}

    def row(self) -> tuple[str, str, str, str]:
        """What a person wants to know: database, size, last used, notebook."""
        used = self.used.astimezone().strftime("%Y-%m-%d %H:%M") if self.used else "-"
        notebook = f"{self.notebook} (gone)" if self.gone else self.notebook
        notebook = notebook or (f"left by {self.left}" if self.left else "-")
        return self.database, f"{(self.bytes or 0) / 1e6:.0f} MB", "now" if self.sessions else used, notebook


@dataclass(frozen=True)
class Claim:
    """The database of a notebook that is being opened.

    known: it was the notebook's before. other: what the database of the notebook's name is instead.
    lost: databases whose notebooks are gone from the same folder, or had the same name.
    """

    database: str
    known: bool
    other: str | None = None
    lost: list[Made] = field(default_factory=list)


def made(conn: psycopg.Connection, sizes: bool = False) -> dict[str, Made]:
    """The databases that the kit made for this role, by name."""
    rows = conn.execute(USABLE, [sizes]).fetchall()
    found = [Made(name, template.parse_note(comment), *rest) for name, comment, *rest in rows]
    return {each.database: each for each in found if each.note}


def listed() -> list[Made]:
    """The databases that the kit made for this role, with their sizes, ordered by name."""
    with maintenance() as conn:
        return list(made(conn, sizes=True).values())


def claim(notebook: str) -> Claim:
    """The database of a notebook, made if there is none yet. Errors: KitError, psycopg.Error."""
    path, wanted = _path(notebook), databases.database_for(notebook)
    with deciding() as conn:
        known = made(conn)
        own = [each for each in known.values() if each.notebook == path]
        first = known.get(wanted)
        if not own and first and first.awaits:
            own = [first]
        if own:
            # A reset that was interrupted leaves two; the one of the right name is complete.
            chosen = min(own, key=lambda each: each.database != wanted)
            template.write_note(conn, chosen.database, _belonging(chosen.note, path))
            return Claim(chosen.database, known=True)
        for name in _names(wanted):
            if not template.exists(conn, name) and databases.create_database(name, **_note(path)):
                break
        lost = [each for each in known.values() if each.gone and _alike(each.notebook or "", path)]
        other = "is not the kit's"
        if first:
            other = (
                f"belonged to {first.left}" if first.left else f"belongs to {first.notebook or 'a program'}"
            )
        return Claim(name, False, other if name != wanted and first not in lost else None, lost)


def make_again(database: str, notebook: str) -> None:
    """Makes a notebook's database again, under its name, if it was dropped."""
    with deciding() as conn:
        if not template.exists(conn, database):
            databases.create_database(database, **_note(_path(notebook)))


def adopt(database: str, notebook: str, force: bool = False) -> str:
    """Makes a database a notebook's and returns its name; the one that the notebook had stays, nobody's.

    database: its name, or the file of the notebook that has it. force: also if that notebook still exists.
    """
    path, database = _path(notebook), _named(database)
    with deciding() as conn:
        known = made(conn)
        chosen = _known(known, database)
        if chosen.notebook not in (None, path) and not chosen.gone and not force:
            raise KitError(
                f"database {database} belongs to {chosen.notebook}, which is still there; "
                f"%pg_llm adopt {database} --force takes it from that notebook"
            )
        for each in known.values():
            if each.notebook == path and each is not chosen:
                note = {k: v for k, v in each.note.items() if k != "notebook"}
                template.write_note(conn, each.database, {**note, "left": path})
        template.write_note(conn, database, _belonging(chosen.note, path))
    return database


def named(names: Iterable[str]) -> list[str]:
    """The databases of those names, or of those notebooks' files, each once. Errors: KitError."""
    found = list(dict.fromkeys(map(_named, names)))
    with maintenance() as conn:
        known = made(conn)
    for name in found:
        _known(known, name)
    return found


def drop(names: list[str], force: bool = False) -> None:
    """Drops databases that the kit made; force: ends the sessions in them. Errors: KitError, none dropped."""
    with deciding() as conn:
        known = made(conn)
        for name in names:
            _known(known, name)
            if not force:
                databases.require_alone(conn, name, "pg-llm databases drop --force")
        for name in names:
            databases.drop_database(name, force)


def rename(old: str, new: str) -> str:
    """Renames a database that the kit made and returns its old name; its notebook finds it by its path.

    old: its name, or the file of its notebook.
    """
    old = _named(old)
    databases.check_name(new)
    if new.endswith(".ipynb"):
        raise KitError(f"{new} would name a notebook, not a database; choose a name without .ipynb")
    with deciding() as conn:
        if databases.reserved(new, conn.info.user):
            raise KitError(f"the name {new} is one of the server's or the kit's own; choose another")
        _known(made(conn), old)
        if template.exists(conn, new):
            raise KitError(f"there is a database {new} already; choose another name")
        databases.require_alone(conn, old)
        conn.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*map(sql.Identifier, (old, new))))
    return old


def database_of(notebook: str) -> str:
    """The database that a notebook has already; notebook: its file, its bare name or its number."""
    with maintenance() as conn:
        known = made(conn)
    path, bare = _path(notebook), PurePath(notebook).name == notebook
    name = databases.database_for(notebook)
    found = [each for each in known.values() if each.notebook == path]
    if not found and bare:
        found = [each for each in known.values() if each.notebook and _called(each.notebook, notebook)]
    if not found and name in known and known[name].awaits:
        found = [known[name]]
    if len(found) == 1:
        return found[0].database
    if found:
        several = "; ".join(f"{each.notebook} has {each.database}" for each in found)
        raise KitError(f"several notebooks are called {_stem(notebook)}: {several}")
    raise KitError(
        f"notebook {notebook} has no database yet: run its first cell; 'pg-llm databases' lists what there is"
    )


def existing(database: str) -> str:
    """The database that a command names, or the one of the notebook whose file it names. Errors: KitError."""
    if database.endswith(".ipynb"):
        return database_of(database)
    made_when_needed = database == databases.DEFAULT and not databases.dsn()
    if not made_when_needed and not databases.database_exists(database):
        raise KitError(f"there is no database {database}; 'pg-llm databases' lists them")
    return database


# -- the parts ----------------------------------------


def application_name(notebook: str) -> str:
    """A notebook's name in ASCII, as others see its connection: PostgreSQL writes other letters as \\xc3\\9f.

    >>> application_name("course/Übung 3 – 日本")
    'Ubung 3 ? ??'
    """
    letters = (c for c in unicodedata.normalize("NFKD", _stem(notebook)) if not unicodedata.combining(c))
    name = "".join(letters).encode("ascii", "replace").decode()
    return name if re.search(r"\w", name) else "notebook"


def _path(notebook: str) -> str:
    return os.path.realpath(Path(notebook).expanduser())


def _stem(path: str) -> str:
    return PurePath(path).name.removesuffix(".ipynb")


def _called(path: str, name: str) -> bool:
    """True if a notebook has this name, or begins with this number: 04_attention_by_hand is called 4, too."""
    number = _stem(path).partition("_")[0]
    by_number = name.isdecimal() and number.isdecimal() and int(number) == int(name)
    return by_number or _stem(path) == _stem(name)


def _note(path: str) -> dict:
    return {"notebook": path, "used": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def _belonging(note: dict, path: str) -> dict:
    return {**{k: v for k, v in note.items() if k != "left"}, **_note(path)}


def _names(wanted: str) -> Iterator[str]:
    yield wanted
    for number in itertools.count(2):
        yield f"{wanted.encode()[:58].decode(errors='ignore')}_{number}"


def _alike(old: str, new: str) -> bool:
    """True if a notebook may have been renamed in its folder, or moved to another one."""
    return PurePath(old).parent == PurePath(new).parent or PurePath(old).name == PurePath(new).name


def _named(database: str) -> str:
    return database_of(database) if database.endswith(".ipynb") else database


def _known(known: dict[str, Made], database: str) -> Made:
    if database in known:
        return known[database]
    near = difflib.get_close_matches(database, known, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise KitError(f"pg_llm made no database {database} for you; {meant}'pg-llm databases' lists them")
