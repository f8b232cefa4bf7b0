"""The course's database: attempts of all notebooks, which no reset of a notebook's database touches.

A superuser's is `pg_llm_course`, which all roles of the server use. Where there is none, a role has one of
its own, or, if it may not create databases, a schema llm_course in the database that it works in.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from importlib import resources

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_llm.course import answers
from pg_llm.course.exercise import Exercise, exercises, from_dict
from pg_llm.errors import KitError
from pg_llm.server import rights, template
from pg_llm.server.connect import dsn, maintenance, open_database

DATABASE = "pg_llm_course"
OWNER = "llm_course"  # a role without rights and without login; judge() runs as this role


@contextlib.contextmanager
def connection() -> Iterator[psycopg.Connection]:
    """A connection to the course's database, which is created or brought up to date if need be."""
    conn = _opened()
    try:
        conn.execute("SET search_path = pg_catalog, pg_temp; SET client_min_messages = warning")
        answers.limited(conn, local=False)
        row = conn.execute(
            "SELECT obj_description(oid, 'pg_namespace'), pg_has_role(nspowner, 'USAGE') "
            "FROM pg_namespace WHERE nspname = 'llm_course'"
        ).fetchone()
        if row is None or row[0] != _comment() and row[1]:
            _fill(conn)
        yield conn
    finally:
        conn.close()


def _opened() -> psycopg.Connection:
    key = (DATABASE, dsn(), os.environ.get("PG_LLM_HOME"))
    try:
        return open_database(_database(key))
    except KitError:  # dropped since
        _database.cache_clear()
        return open_database(_database(key))


def is_of_all() -> bool:
    """True if there is a course's database that a superuser made, in which all roles keep their attempts."""
    with maintenance() as conn:
        query = (
            "SELECT EXISTS (SELECT FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba "
            "WHERE d.datname = %s AND r.rolsuper)"
        )
        return conn.execute(query, [DATABASE]).fetchone() == (True,)


@functools.cache
def _script() -> str:
    return resources.files("pg_llm.course").joinpath("course.sql").read_text(encoding="utf-8")


def _comment() -> str:
    """The comment of the schema, which tells whether the script that made it is this installation's."""
    digest = hashlib.sha256(_script().encode()).hexdigest()[:12]
    return f"Exercises of the course: attempts, and in a class the answer keys; script {digest}"


@functools.cache
def _database(key: tuple) -> str | None:
    """The database's name; None for the one of PG_LLM_DSN, if the role may not create another.

    key: what the answer depends on.
    """
    with maintenance() as conn:
        superuser = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = session_user").fetchone()
        if template.exists(conn, DATABASE) and rights.stranger(conn, DATABASE) is None:
            return DATABASE  # a superuser's, or the role's own
        # A class has one database, which a superuser made; other roles have one each.
        name = DATABASE if superuser == (True,) else f"{conn.info.user}_course"[:63]
        if superuser == (True,) and template.exists(conn, name):
            raise KitError(
                f"database {DATABASE} belongs to role {rights.stranger(conn, DATABASE)}: attempts of a class "
                "belong to a superuser; drop or rename it"
            )
        if template.exists(conn, name):
            return name
        database = sql.Identifier(name)
        try:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(database))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            pass  # another session was faster
        except psycopg.errors.InsufficientPrivilege:
            return None
        else:
            conn.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
        return name


def _fill(conn: psycopg.Connection) -> None:
    with conn.transaction():
        # Sessions that come here at the same time do it one after the other.
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('llm_course'))")
        conn.execute(_script().encode())
        conn.execute(sql.SQL("COMMENT ON SCHEMA llm_course IS {}").format(sql.Literal(_comment())))
        if conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,):
            _hand_over(conn)


def _hand_over(conn: psycopg.Connection) -> None:
    """Makes a role without rights the owner, so that nothing in this database runs with a superuser's."""
    owner = sql.Identifier(OWNER)
    if not conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone():
        conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(owner))
    query = (
        "SELECT format('%s %s', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass) "
        "FROM pg_class WHERE relnamespace = 'llm_course'::regnamespace AND relkind IN ('r', 'v') UNION ALL "
        "SELECT format('FUNCTION %s', oid::regprocedure) "
        "FROM pg_proc WHERE pronamespace = 'llm_course'::regnamespace"
    )
    for (item,) in conn.execute(query).fetchall():
        conn.execute(sql.SQL("ALTER {} OWNER TO {}").format(sql.SQL(item), owner))
    conn.execute(sql.SQL("ALTER SCHEMA llm_course OWNER TO {}").format(owner))


# -- exercises ----


def keyed() -> bool:
    """True if the server judges by a class's answer keys."""
    with connection() as conn:
        return conn.execute("SELECT EXISTS (SELECT FROM llm_course.exercise)").fetchone() == (True,)


def find(name: str) -> tuple[Exercise, bool]:
    """An exercise, and True if the server has its keys, so that they judge. Errors: KitError."""
    with connection() as conn:
        row = conn.execute("SELECT spec FROM llm_course.exercise WHERE id = %s", [name]).fetchone()
    if row:
        spec = dict(row[0])
        spec.pop("options")
        return from_dict(spec), True
    known = exercises()
    if name not in known:
        raise KitError(f"there is no exercise {name}; there are {', '.join(known) or 'none here'}")
    return known[name], False


# -- attempts ----


def verdict(course: psycopg.Connection, exercise: Exercise, results: list[dict], keys: list[dict]) -> dict:
    """The verdict of the keys that this session computed: right, score, message, failed."""
    query = "SELECT llm_course.verdict(%s, %s, %s)"
    return course.execute(query, [Jsonb(results), Jsonb(keys), Jsonb(exercise.options)]).fetchall()[0][0]


def judge(course: psycopg.Connection, exercise: Exercise, answer: str, results: list[dict]) -> dict:
    """The verdict of the server's keys; the server records the attempt."""
    query = "SELECT llm_course.judge(%s, %s, %s)"
    return course.execute(query, [exercise.id, answer, Jsonb(results)]).fetchall()[0][0]


def record(course: psycopg.Connection, exercise: str, score: float, message: str, answer: str) -> None:
    """Keeps an attempt."""
    course.execute(
        "INSERT INTO llm_course.attempt (exercise, score, message, answer) VALUES (%s, %s, %s, %s)",
        [exercise, score, message[:1000], answer[:10000]],
    )


def looked(exercise: str) -> None:
    """Records that an exercise was opened; its time counts from the first try, not from here."""
    with connection() as course:
        course.execute("SELECT llm_course.looked(%s)", [exercise])
