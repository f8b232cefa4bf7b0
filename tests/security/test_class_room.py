"""A student of a class who attacks: others' databases, the server, the limits, the answers, the attempts."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from pg_llm.course import store, students
from pg_llm.server import database as databases
from pg_llm.server import template

REFUSED = """
SET pg_llm.memory_limit = '100GB'
ALTER ROLE ann SET pg_llm.memory_limit = '100GB'
ALTER ROLE ann RESET pg_llm.memory_limit
ALTER DATABASE ann SET pg_llm.memory_limit = '100GB'
ALTER DATABASE ann SET session_preload_libraries = 'other'
ALTER DATABASE ann RESET session_preload_libraries
SET temp_file_limit = -1
ALTER ROLE ann CONNECTION LIMIT -1
ALTER ROLE ann CREATEDB
ALTER ROLE ann CREATEROLE
ALTER ROLE ann SUPERUSER
ALTER ROLE ann BYPASSRLS
ALTER ROLE ben PASSWORD 'x'
ALTER ROLE ben RENAME TO x
DROP ROLE ben
COMMENT ON ROLE ann IS 'x'
GRANT llm_class TO ann WITH ADMIN OPTION
GRANT ben TO ann
REVOKE llm_class FROM ben
SET ROLE llm_class
SET ROLE llm_course
SET ROLE ben
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
CREATE ROLE x
CREATE DATABASE x
CREATE DATABASE x TEMPLATE pg_llm_template
ALTER DATABASE ben CONNECTION LIMIT 0
ALTER DATABASE pg_llm_template ALLOW_CONNECTIONS true
DROP DATABASE ben
DROP DATABASE pg_llm_course
COMMENT ON DATABASE ben IS 'x'
ALTER SYSTEM SET work_mem = '1GB'
SELECT pg_read_file('/etc/passwd')
SELECT pg_read_binary_file('postgresql.conf')
SELECT pg_ls_dir('.')
SELECT * FROM pg_hba_file_rules
COPY (SELECT 1) TO PROGRAM 'id'
COPY (SELECT 1) TO '/tmp/x'
SELECT lo_import('/etc/passwd')
SELECT lo_export(1, '/tmp/x')
SELECT pg_llm_import_safetensors('/etc', 'gpt2-small')
SELECT pg_llm_export_npz('/tmp/x.npz', 'classroom-1')
SELECT pg_llm_load_bpe_vocab('/etc/passwd', 'x')
SET pg_llm.checkpoint_dir = '/tmp'
LOAD '/tmp/x.so'
CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/x.so'
CREATE EXTENSION vector
CREATE LANGUAGE plpython3u
CREATE FOREIGN DATA WRAPPER w
CREATE SUBSCRIPTION s CONNECTION 'dbname=ben' PUBLICATION p WITH (connect = false)
CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()
SELECT pg_create_logical_replication_slot('x', 'test_decoding')
CREATE TABLESPACE t LOCATION '/tmp'
SELECT rolpassword FROM pg_authid
SELECT * FROM pg_shadow
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ben'
SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'ben'
SELECT pg_reload_conf()
SELECT pg_rotate_logfile()
SELECT pg_switch_wal()
""".strip().splitlines()
LARGE_OBJECTS = ["lo_create(0)", "lo_creat(-1)", "lo_from_bytea(0, 'x')"]


@pytest.fixture(scope="module")
def two(server):
    """Sessions of ann, who attacks, and of ben."""
    with store.connection():
        pass
    limits = students.Limits(connections=3, memory="64MB")
    list(students.add(["ann", "ben"], limits))
    with entered(server, "ann") as ann, entered(server, "ben") as ben:
        ben.execute("CREATE TABLE secret (i int); SELECT 'the answer of ben'")
        yield server, ann, ben
    students.remove(["ann", "ben"], force=True)


def entered(server, name, database=None):
    return psycopg.connect(**{**server.start().conninfo(database or name), "user": name}, autocommit=True)


@pytest.mark.parametrize("statement", REFUSED)
def test_refused(two, statement):
    _, ann, ben = two
    with pytest.raises(psycopg.Error) as error:
        ann.execute(statement)
    assert error.value.sqlstate in ("42501", "0LP01", "42602", "58P01", "0A000"), error.value
    assert not ann.closed and ben.execute("SELECT 1").fetchone() == (1,)


def test_which_databases_a_student_enters(two):
    server, _, _ = two
    databases.create_database("test_teachers")
    try:
        for name in ("ben", "test_teachers", "pg_llm_template", "template0"):
            with pytest.raises(psycopg.OperationalError):
                entered(server, "ann", name)
    finally:
        databases.drop_database("test_teachers")


def test_limits_hold(two):
    server, ann, _ = two
    ann.execute("ALTER ROLE ann RESET ALL")
    with entered(server, "ann") as second, entered(server, "ann"):
        assert second.execute("SHOW pg_llm.memory_limit").fetchone() == ("64MB",)
        with pytest.raises(psycopg.Error, match="session holds"):
            second.execute("SELECT numel(zeros('{5000, 5000}'))")
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            entered(server, "ann")


def test_what_others_run_is_not_shown(two):
    _, ann, _ = two
    rows = ann.execute("SELECT query FROM pg_stat_activity WHERE usename = 'ben'").fetchall()
    assert rows and set(rows) == {("<insufficient privilege>",)}
    notes = "SELECT shobj_description(oid, 'pg_database') FROM pg_database UNION ALL "
    notes += "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles"
    assert "password" not in str(ann.execute(notes).fetchall()).lower()


@pytest.mark.parametrize("call", LARGE_OBJECTS)
def test_the_attempts_database_holds_nothing_of_a_students(two, call):
    """A student could fill it, and nobody would know whose they are."""
    server, _, _ = two
    with entered(server, "ann", store.DATABASE) as course:
        for statement in (f"SELECT {call}", "CREATE TEMP TABLE t (i int)", "CREATE TABLE public.t (i int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                course.execute(statement)


def test_nobody_slips_into_a_database_that_is_being_made(two, monkeypatch):
    """A session that is in before CONNECT is revoked would stay."""
    server, _, _ = two
    answers = []

    @contextlib.contextmanager
    def explained(conn):
        yield
        try:
            entered(server, "ann", "test_window").close()
        except psycopg.OperationalError as error:
            answers.append(str(error).rpartition("FATAL:")[2].strip())

    monkeypatch.setattr(template, "explained", explained)
    databases.create_database("test_window")
    databases.drop_database("test_window")
    assert answers == ['too many connections for database "test_window"']
