"""Shared weights when makers hang or die, servers restart, and disks are full."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
from helpers.shared_copies import TOKENS, files, folder_of, mapped, wait_until
from helpers.tiny_model import letters

from pg_llm.server import binaries
from pg_llm.server.server import Server


@pytest.fixture(scope="module")
def private_server(extension):
    """A server of these tests' own, with a model of 50 MB."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PG_LLM_EXTENSION", str(extension))
    with tempfile.TemporaryDirectory(prefix="pg_llm-shared-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server = Server(Path(name) / "home")
        with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET fsync = off")
            conn.execute("ALTER SYSTEM SET restart_after_crash = on")
            conn.execute("SELECT pg_reload_conf(); CREATE EXTENSION pg_llm")
            conn.execute("SELECT llm_create_model('m', 4, 8, 512, 16, 26), llm_init_model('m', 1)")
            letters(conn, "m")
            conn.execute("CHECKPOINT")
        yield server
        server.stop()
    patch.undo()


@pytest.fixture
def open_session(private_server):
    """A function that opens a session of that server, even while it restarts."""
    opened = []

    def another():
        for _ in range(300):
            try:
                opened.append(psycopg.connect(**private_server.start().conninfo(), autocommit=True))
                return opened[-1]
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise AssertionError("the server did not come back")

    yield another
    for connection in opened:
        connection.close()


def md5(conn):
    return conn.execute("SELECT md5(llm_logits(%s, 'm')::bytea)", [TOKENS]).fetchone()[0]


def stop_maker(conn, attempts=20):
    """Starts making a copy in a thread and stops the session's process (SIGSTOP) midway."""
    folder, pid = folder_of(conn), conn.info.backend_pid
    for _ in range(attempts):
        outcome = []

        def work(outcome=outcome):
            try:
                outcome.append(md5(conn))
            except psycopg.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            with contextlib.suppress(FileNotFoundError):
                if any(f.name.endswith(".new") for f in folder.iterdir()):
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(0.05)
                    if [f for f in folder.glob("*.new") if f.stat().st_size > 0]:
                        return thread, outcome
                    os.kill(pid, signal.SIGCONT)
        thread.join()
        conn.execute("UPDATE llm_param SET step = step WHERE model = 'm'")  # a new version: try again
    pytest.skip("no copy was caught in the making")


@pytest.mark.slow
def test_a_maker_that_is_stuck(open_session):
    """Others wait while it makes progress, can be canceled meanwhile, and then load private copies."""
    maker, other, canceled = open_session(), open_session(), open_session()
    thread, outcome = stop_maker(maker)
    try:
        canceled.execute("SET statement_timeout = '300ms'")
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            md5(canceled)
        assert time.monotonic() - start < 3
        expected = md5(other)  # after waiting PATIENCE_MS
        assert mapped(other) == {} and 4 < time.monotonic() - start < 60
    finally:
        os.kill(maker.info.backend_pid, signal.SIGCONT)
    thread.join(60)
    assert outcome == [expected] and len(mapped(maker)) == 1
    canceled.execute("RESET statement_timeout")
    assert md5(canceled) == expected and mapped(canceled).keys() == mapped(maker).keys()


@pytest.mark.slow
def test_a_maker_that_is_canceled(open_session):
    """A session that waited for it makes the copy instead."""
    maker, other, admin = open_session(), open_session(), open_session()
    expected = md5(admin)
    admin.execute("UPDATE llm_param SET step = step WHERE model = 'm'")
    thread, outcome = stop_maker(maker)
    results = []
    waiting = threading.Thread(target=lambda: results.append(md5(other)))
    waiting.start()
    event = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
    pid = other.info.backend_pid
    waits = wait_until(lambda: admin.execute(event, [pid]).fetchone() == ("PgLlmSharedCopy",))
    admin.execute("SELECT pg_cancel_backend(%s)", [maker.info.backend_pid])
    os.kill(maker.info.backend_pid, signal.SIGCONT)
    run_out = [t.join(60) for t in (thread, waiting)]
    assert waits and run_out == [None, None] and results == [expected]
    assert isinstance(outcome[0], psycopg.errors.QueryCanceled)
    assert len(mapped(other)) == 1 and not list(folder_of(other).glob("*.new"))
    assert md5(maker) == expected and mapped(maker).keys() == mapped(other).keys()


@pytest.mark.slow
@pytest.mark.parametrize("remove", ["on", "off"])
def test_a_maker_that_is_killed(open_session, private_server, remove):
    """The server restarts; incomplete files and those of an earlier start are never used."""
    maker = open_session()
    maker.execute(f"ALTER SYSTEM SET remove_temp_files_after_crash = {remove}")
    maker.execute("SELECT pg_reload_conf()")
    expected = md5(maker)
    maker.execute("UPDATE llm_param SET step = step WHERE model = 'm'")
    thread, outcome = stop_maker(maker)
    folder = temp_folder(private_server)
    left = {f.name for f in folder.iterdir()}
    os.kill(maker.info.backend_pid, signal.SIGKILL)
    thread.join(60)
    assert isinstance(outcome[0], psycopg.OperationalError)
    time.sleep(0.5)
    after = open_session()
    assert (left <= {f.name for f in folder.iterdir()}) == (remove == "off")
    assert md5(after) == expected and len(mapped(after)) == 1
    assert len(files(after)) == 1 and not left & {f.name for f in folder.iterdir()}


def temp_folder(server) -> Path:
    with psycopg.connect(**server.start().conninfo()) as conn:
        return folder_of(conn)


@pytest.mark.slow
def test_a_server_that_is_restarted(open_session, private_server):
    first = open_session()
    expected = md5(first)
    left = files(first)
    assert left
    first.close()
    private_server.stop()
    assert (temp_folder(private_server) / left[0]).exists() is False
    again = open_session()
    assert md5(again) == expected and len(mapped(again)) == 1 and files(again) != left


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_a_file_that_may_not_grow(open_session):
    """Writing fails midway: the session uses a private copy, and the file is removed."""
    conn = open_session()
    expected = md5(conn)
    conn.execute("UPDATE llm_param SET step = step WHERE model = 'm'")
    conn.execute("CHECKPOINT")

    def limit(size):
        command = ["prlimit", f"--pid={conn.info.backend_pid}", f"--fsize={size}:unlimited"]
        done = binaries.run_as().run(command)
        assert done.returncode == 0, done.stderr

    limit(20 << 20)
    assert md5(conn) == expected and mapped(conn) == {} and files(conn) == []
    limit("unlimited")
    other = open_session()
    assert md5(other) == expected and len(mapped(other)) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_that_is_full(open_session, private_server):
    first = open_session()
    expected = md5(first)
    folder = temp_folder(private_server)
    first.execute("UPDATE llm_param SET step = step WHERE model = 'm'")
    owner = folder.stat()
    options = f"size=60m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "pg_llm-test", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        for size in (0, 45 << 20):  # more than half of what is free; hardly anything free
            (folder / "ballast").write_bytes(bytes(size))
            session = open_session()
            assert md5(session) == expected and mapped(session) == {} and files(session) == []
        (folder / "ballast").unlink()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    session = open_session()
    assert md5(session) == expected and len(mapped(session)) == 1
