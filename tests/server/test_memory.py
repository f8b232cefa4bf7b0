"""pg_llm.server_memory_limit: all sessions together stay within it, and the server keeps running."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest
from helpers.pg_install import PgServer, installed, pg_config_of
from helpers.shared_copies import wait_until
from helpers.tiny_model import make

pytestmark = pytest.mark.slow

MB = 2**20 // 4  # elements of a tensor
NAME = "pg_llm.server_memory_limit"


@pytest.fixture(scope="module", params=[15, 16, 18])
def postgres(request, home):
    """A running server of that version with the tree's extension, and a model "m" of 28 MB."""
    if pg_config_of(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} with its headers is not on this machine")
    folder = home / f"memory{request.param}"
    folder.mkdir(mode=0o755)
    install = installed(request.param)
    server = PgServer(install, folder)
    with server.connect() as conn:
        conn.execute("CREATE EXTENSION pg_llm")
        conn.execute("CREATE ROLE pupil LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO pupil")
        make(conn, "m", n_layer=1, n_head=1, d_model=768, n_positions=512)
        # values that are small until they are read
        conn.execute(
            "CREATE TABLE packed AS SELECT repeat('abcd', 10 * 1048576) AS t,"
            " repeat('abcd', 10 * 1048576)::bytea AS b, array_fill(0, ARRAY[10 * 1048576]) AS ints,"
            " array_fill(0.5::float8, ARRAY[5 * 1048576]) AS doubles"
        )
    yield server
    server.stop()
    assert "terminated by signal 11" not in server.log.read_text(errors="replace")


class Sessions:
    """Connections to a server, all of which see the same limit."""

    def __init__(self, server):
        self.server, self.opened = server, []
        self.admin = self.new()

    def new(self, **more):
        where = {"host": str(self.server.sockets), "user": "postgres", "dbname": "postgres", **more}
        conn = psycopg.connect(**where, autocommit=True)
        self.opened.append(conn)
        conn.execute("SELECT ndim('1'::tensor)")
        return conn

    def limit(self, megabytes):
        self.admin.execute(f"ALTER SYSTEM SET {NAME} = '{megabytes}MB'")
        self.admin.execute("SELECT pg_reload_conf()")
        query = f"SELECT setting::int FROM pg_settings WHERE name = '{NAME}'"
        for conn in self.opened:
            assert wait_until(lambda c=conn: c.execute(query).fetchone() == (megabytes,))

    def held(self):
        """Counted MB of each session."""
        rows = self.admin.execute("SELECT pid, bytes / 1048576.0 FROM llm_memory()")
        return {pid: float(size) for pid, size in rows}

    def total(self):
        return sum(self.held().values())

    def close(self):
        for conn in self.opened:
            conn.close()
        with self.server.connect() as conn:
            conn.execute("LOAD 'pg_llm'")
            conn.execute(f"ALTER SYSTEM RESET {NAME}")
            conn.execute("SELECT pg_reload_conf()")


@pytest.fixture
def sessions(postgres):
    sessions = Sessions(postgres)
    yield sessions
    sessions.close()


def hold(conn, size):
    """Makes the session hold twice that many MB until its transaction ends."""
    conn.execute(f"BEGIN; DECLARE held CURSOR FOR SELECT tensor_rows(zeros(ARRAY[{size * MB}]))")
    conn.execute("FETCH 1 FROM held")


def ask(conn, size):
    """Creates a tensor of that many MB; there must be room for a copy, too."""
    conn.execute(f"SELECT numel(ones(ARRAY[{size * MB}]))")


def refused(conn, query):
    """The error of a statement that exceeds the server's limit."""
    with pytest.raises(psycopg.errors.OutOfMemory) as error:
        conn.execute(query)
    said = error.value.diag
    assert said.sqlstate == "53200" and NAME in said.message_hint and "llm_memory()" in said.message_hint
    assert "all sessions of the server hold" in (said.message_detail or said.message_primary)
    return said


# ---- two sessions ----


def fail(conn):
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("SELECT 1 / 0")


ENDS = {
    "commit": lambda conn: conn.execute("COMMIT"),
    "rollback": lambda conn: conn.execute("ROLLBACK"),
    "error": fail,
    "disconnect": lambda conn: conn.close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_who_asks_last_is_refused_until_the_first_has_ended(sessions, end):
    first, second = sessions.new(), sessions.new()
    sessions.limit(300)
    hold(first, 90)
    before = sessions.held()
    assert 180 < before[first.info.backend_pid] < 200
    said = refused(second, f"SELECT numel(ones(ARRAY[{100 * MB}]))")
    assert said.message_primary.startswith("this needs 201 MB more, and all sessions of the server hold ")
    assert said.message_primary.endswith(" MB of their 300 MB")
    held = int(said.message_primary.split(" hold ")[1].split()[0])
    assert before[first.info.backend_pid] < held < 200 + 10
    ask(second, 40)  # a request that fits is granted
    ENDS[end](first)
    assert wait_until(lambda: sessions.total() < 30)
    ask(second, 100)
    if end != "disconnect":
        first.execute("ROLLBACK")
        ask(first, 100)


def test_statements_give_back_what_they_took(sessions):
    """In a transaction, in a pipeline, after an error, in the engine: a quarter of the limit, 70 times."""
    conn, other = sessions.new(), sessions.new()
    sessions.limit(200)
    tokens = "array_fill(1, ARRAY[8, 500])"
    for _ in range(10):
        conn.execute("BEGIN")
        ask(conn, 50)
        ask(other, 50)
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute(f"SELECT numel(ones(ARRAY[{50 * MB}])) / 0")
        ask(other, 50)
        conn.execute("ROLLBACK")
        with conn.pipeline():
            ask(conn, 50)
            ask(conn, 50)
        ask(other, 50)
        conn.execute(f"SELECT shape(llm_logits({tokens}, 'm'))")
        ask(other, 50)
    assert sessions.total() < 200 / 2 + 5


def test_the_engine_is_refused(sessions):
    first, second = sessions.new(), sessions.new()
    query = "SELECT shape(llm_logits(array_fill(1, ARRAY[16, 500]), 'm'))"  # 24 MB and more for each value
    sessions.limit(230)
    expected = second.execute(query).fetchone()
    hold(first, 60)
    said = refused(second, query)
    assert said.message_primary.startswith("no memory for ") and "their 230 MB" in said.message_detail
    first.execute("ROLLBACK")
    assert second.execute(query).fetchone() == expected


def test_no_limit(sessions):
    first, second = sessions.new(), sessions.new()
    sessions.limit(16)
    refused(second, f"SELECT ones(ARRAY[{16 * MB}])")
    sessions.limit(0)
    hold(first, 50)
    ask(second, 100)
    assert sessions.held()[first.info.backend_pid] > 100


# ---- allocations that count ----

TOO_MUCH = {
    "text": "SELECT zeros(ARRAY[5000000])::text",
    "text, shown": "SELECT zeros(ARRAY[5000000])",
    "real array": "SELECT zeros(ARRAY[2000000])::real[]",
    "float8 array": "SELECT zeros(ARRAY[2000000])::float8[]",
    "int array": "SELECT zeros(ARRAY[2000000])::int[]",
    "bytea": "SELECT zeros(ARRAY[6000000])::bytea",
    "sent": "COPY (SELECT zeros(ARRAY[12000000])) TO '/dev/null' (FORMAT binary)",
    "packed bytea": "SELECT numel(tensor(b, ARRAY[10 * 1048576])) FROM packed",
    "packed doubles": "SELECT numel(doubles::tensor) FROM packed",
    "packed ids": "SELECT length(llm_decode(ints, 'm')) FROM packed",
    "packed text": "SELECT array_length(llm_encode(t, 'm'), 1) FROM packed",
    "packed tokens": "SELECT llm_logits(ints, 'm') FROM packed",
    "packed prompt": "SELECT llm_generate(t, 1, model => 'm') FROM packed",
    "numerics": "SELECT numel(array_fill(1::numeric, ARRAY[8000000])::tensor)",
    "small tensors": "SELECT array_agg(ones(ARRAY[100])) IS NULL FROM generate_series(1, 300000)",
    "numbers": "SELECT array_agg(i::real::tensor) IS NULL FROM generate_series(1, 2000000) AS i",
    "sum": "SELECT numel(sum(ones(ARRAY[7000000]))) FROM generate_series(1, 2)",
    "stack": "SELECT numel(stack(ones(ARRAY[1000]))) FROM generate_series(1, 50000)",
    "gradients": "SELECT (pg_llm_layernorm_backward(ones(ARRAY[6000, 1000]), ones(ARRAY[6000, 1000]),"
    " ones(ARRAY[1000]))).dx IS NULL",
    "variables": "DO $$ DECLARE t tensor[]; BEGIN FOR i IN 1 .. 100 LOOP t[i] := ones(ARRAY[1000000]);"
    " END LOOP; END $$",
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_counts(sessions, what):
    """Each would take at least 100 MB, including PostgreSQL's own part."""
    conn = sessions.new()
    conn.execute("SELECT llm_encode('abc', 'm')")
    sessions.limit(80)
    refused(conn, TOO_MUCH[what])
    assert wait_until(lambda: sessions.total() < 80 / 2 + 5)
    sessions.limit(0)
    with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):  # the model has 512 positions
        conn.execute(TOO_MUCH[what])


def test_idle_copies_make_room(sessions):
    """Sessions keep private copies of a model, but not if they take half of the memory or more."""
    several = [sessions.new() for _ in range(8)]
    sessions.limit(200)
    results = set()
    for conn in several:
        conn.execute("SET pg_llm.share_weights = off")
        results.add(conn.execute("SELECT md5(llm_logits(ARRAY[1, 2], 'm')::bytea)").fetchone())
    assert 56 < sessions.total() < 100 + 8 * 5
    ask(sessions.new(), 30)
    results |= {c.execute("SELECT md5(llm_logits(ARRAY[1, 2], 'm')::bytea)").fetchone() for c in several}
    assert len(results) == 1


# ---- rights to see and set limits ----


def test_only_the_server_sets_the_limit(sessions):
    sessions.limit(100)
    pupil = sessions.new(user="pupil")
    for statement in (
        f"SET {NAME} = '1TB'",
        f"SELECT set_config('{NAME}', '0', false)",
        f"ALTER ROLE pupil SET {NAME} = '1TB'",
        f"ALTER SYSTEM SET {NAME} = '1TB'",
    ):
        with pytest.raises((psycopg.errors.CantChangeRuntimeParam, psycopg.errors.InsufficientPrivilege)):
            pupil.execute(statement)
    assert pupil.execute(f"SHOW {NAME}").fetchone() == ("100MB",)
    refused(pupil, f"SELECT ones(ARRAY[{100 * MB}])")
    with pytest.raises(psycopg.errors.CantChangeRuntimeParam):
        sessions.admin.execute(f"SET {NAME} = '1TB'")


@pytest.mark.parametrize(
    "given", [f"{NAME}=1TB", f"{NAME}=", "PG_LLM.Server-memory_Limit=0", "pg_llm.memory_limit=1TB"]
)
def test_no_limit_comes_with_a_connection(sessions, given):
    """Before the library is loaded, PostgreSQL accepts any value, and loses the server's own."""
    sessions.limit(100)
    for options in ("", f"-c {given}"):
        where = {"host": str(sessions.server.sockets), "user": "pupil", "dbname": "postgres"}
        with psycopg.connect(**where, options=options, autocommit=True) as pupil:
            if not options:
                pupil.execute(f"SET {NAME} = '1TB'")
                refused(pupil, f"SELECT ones(ARRAY[{100 * MB}])")
                continue
            for _ in range(2):  # loading it once more does not help
                name = r"pg_llm\.memory_limit" if "pg_llm.memory" in given else NAME
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f'may not set "{name}"'):
                    pupil.execute("SELECT ndim('1'::tensor)")


def test_the_default(sessions):
    query = (
        "SELECT name, boot_val::int, context, unit FROM pg_settings WHERE name LIKE 'pg_llm.%memory_limit'"
    )
    one, all_of_them = sorted(sessions.admin.execute(query).fetchall())
    assert one == ("pg_llm.memory_limit", one[1], "superuser", "MB")
    assert all_of_them[2:] == ("sighup", "MB") and abs(all_of_them[1] - one[1] * 3 / 2) <= 4


def test_each_role_sees_its_own_sessions(sessions):
    pupil, other = sessions.new(user="pupil"), sessions.new()
    for conn in (pupil, other):
        ask(conn, 1)
    seen = "SELECT pid FROM llm_memory() WHERE bytes > 0"
    assert pupil.execute(seen).fetchall() == [(pupil.info.backend_pid,)]
    assert {(pupil.info.backend_pid,), (other.info.backend_pid,)} <= set(other.execute(seen).fetchall())
    sessions.admin.execute("GRANT pg_read_all_stats TO pupil")
    assert (other.info.backend_pid,) in pupil.execute(seen).fetchall()
    sessions.admin.execute("REVOKE pg_read_all_stats FROM pupil")


# ---- thirty sessions ----

HUNGRY = [
    f"SELECT numel(randn(ARRAY[{50 * MB}], 1))",
    "SELECT numel(ones(ARRAY[3500, 1]) @ ones(ARRAY[1, 3500])), pg_sleep(0.3)",
    "SELECT length(randn(ARRAY[3000000], 1)::text)",
    "SELECT length(randn(ARRAY[2000000], 1)::real[]::text)",
    "SELECT numel(stack(randn(ARRAY[100000], i))) FROM generate_series(1, 200) AS i",
    "SELECT shape(llm_logits(array_fill(1, ARRAY[20, 500]), 'm'))",
    "DO $$ DECLARE t tensor; BEGIN FOR i IN 1 .. 5 LOOP t := randn(ARRAY[6000000], i); t := t * 2 + 1;"
    " END LOOP; END $$",
    "CREATE TEMP TABLE mine AS SELECT randn(ARRAY[8000000], i) AS t FROM generate_series(1, 3) AS i",
]


def anonymous(conn) -> float:
    """Private memory of the session's server process in MB, which no file backs."""
    lines = Path(f"/proc/{conn.info.backend_pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))


def test_thirty_sessions_at_once(sessions):
    """Each requests at least a quarter of the limit. None is killed, and all continue."""
    limit = 400
    several = [sessions.new() for _ in range(30)]
    for conn in several:  # what PostgreSQL holds itself, 3 MB a session, counts from its first request on
        conn.execute(f"SELECT numel(ones(ARRAY[{MB}]))")
    sessions.limit(limit)
    outcomes, peak, counted, done = [], 0, 0, threading.Event()
    barrier = threading.Barrier(len(several))

    def work(i):
        barrier.wait()
        for n in range(4):
            query = HUNGRY[(i + n) % len(HUNGRY)].replace("mine", f"mine{n}")
            try:
                several[i].execute(query)
                outcomes.append("done")
            except psycopg.Error as error:
                outcomes.append(error.sqlstate)

    def watch():
        nonlocal peak, counted
        while not done.is_set():
            peak, counted = max(peak, sum(map(anonymous, several))), max(counted, sessions.total())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=work, args=[i]) for i in range(len(several))]
    base = sum(map(anonymous, several))
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive()
    done.set()
    watcher.join()
    assert set(outcomes) == {"done", "53200"} and len(outcomes) == 4 * len(several)
    assert outcomes.count("53200") > 30  # the limit was reached
    assert counted < limit + 50
    assert peak < limit + base + 5 * len(several)
    left = sum(map(anonymous, several))
    assert abs(left - sessions.total()) < 3 * len(several)
    for conn in several:
        assert conn.execute("SELECT shape(llm_logits(ARRAY[1, 2], 'm'))").fetchone() == ([2, 26],)
    assert "terminated by signal" not in sessions.server.log.read_text(errors="replace")


def test_a_killed_session_leaves_nothing_behind(sessions, postgres):
    """kill -9 makes PostgreSQL restart all sessions."""
    victim = sessions.new()
    sessions.limit(300)
    hold(victim, 90)
    refused(sessions.new(), f"SELECT ones(ARRAY[{100 * MB}])")
    os.kill(victim.info.backend_pid, signal.SIGKILL)

    def back():
        try:
            sessions.admin = sessions.new()
        except psycopg.OperationalError:
            return False
        return True

    assert wait_until(lambda: all(closed(conn) for conn in sessions.opened)) and wait_until(back)
    assert sessions.total() < 10
    assert sessions.admin.execute(f"SHOW {NAME}").fetchone() == ("300MB",)
    ask(sessions.admin, 100)


def closed(conn):
    try:
        conn.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False
