"""The embedded server: finding, starting, stopping, and recovery from every kind of failure."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from helpers.ports import free_port
from psycopg import pq

from pg_llm.errors import KitError
from pg_llm.server import binaries, clients, processes, server, settings
from pg_llm.server.connect import open_database
from pg_llm.server.server import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(extension, monkeypatch):
    """A folder of the test's own that the server's user can enter; its servers are stopped afterwards."""
    monkeypatch.setenv("PG_LLM_EXTENSION", str(extension))
    path = Path(tempfile.mkdtemp(prefix="pg_llm-server-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    for pid_file in path.rglob("postmaster.pid"):
        Server(pid_file.parent.parent).stop()
    shutil.rmtree(path, ignore_errors=True)


def connect(live):
    return psycopg.connect(**live.conninfo(), autocommit=True)


def test_started_once_and_found_again(folder):
    """A second start finds the first server; stop ends it; a stopped one is no error."""
    first = Server(folder / "home").start()
    assert Server(folder / "home").start() == first
    assert Server(folder / "home").stop() is True
    assert Server(folder / "home").stop() is False
    assert Server(folder / "home").running() is None


def test_private_socket_and_no_port(folder):
    live = Server(folder / "home").start()
    assert stat.S_IMODE(live.socket_dir.stat().st_mode) == 0o700
    assert len(os.fsencode(live.socket)) < 107
    assert live.listen == ""
    family = [psutil.Process(live.pid), *psutil.Process(live.pid).children()]
    assert not [c for p in family for c in p.net_connections("inet")]
    with connect(live) as conn:
        assert conn.execute("SHOW fsync").fetchone() == ("on",)
        assert conn.execute("SHOW server_version_num").fetchone()[0].startswith("18")


def test_a_path_with_spaces_and_quotes(folder):
    """The data folder may have any name, even one longer than a socket path may be."""
    home = folder / "My Documents (1)" / "it's $HOME" / ("long" * 30)
    with connect(Server(home).start()) as conn:
        conn.execute("LOAD 'pg_llm'")


def test_started_by_several_programs_at_once(folder):
    """Five programs start the server at the same time: one server, all connected."""
    code = "import sys; from pg_llm.server.server import Server; print(Server(sys.argv[1]).start().pid)"
    command = [sys.executable, "-c", code, str(folder / "home")]
    root = {**os.environ, "PYTHONPATH": str(binaries.PACKAGE.parent)}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=root) for _ in range(5)]
    pids = {process.communicate(timeout=120)[0].strip() for process in started}
    assert len(pids) == 1 and pids != {""}


def test_after_kill_nothing_committed_is_lost(folder):
    """kill -9 of the server while a session computes: the orphan is ended, committed data survive."""
    live = Server(folder / "home").start()
    conn = connect(live)
    conn.execute("CREATE TABLE kept AS SELECT 42 AS x")
    busy = connect(live)
    backend = busy.info.backend_pid
    # A loop that never waits does not notice that its server died.
    busy.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
    busy.pgconn.flush()
    time.sleep(0.3)
    os.kill(live.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(live.pid)] if psutil.pid_exists(live.pid) else [], timeout=10)
    assert psutil.pid_exists(backend), "the orphan should still compute"
    again = Server(folder / "home").start()
    assert again.pid != live.pid
    assert not psutil.pid_exists(backend)
    with connect(again) as conn:
        assert conn.execute("SELECT x FROM kept").fetchone() == (42,)


def test_a_stale_pid_file_of_a_number_in_use_again(folder):
    """After a machine crash, postmaster.pid may name any living process: it is not taken for the server."""
    home = Server(folder / "home")
    live = home.start()
    text = (home.data / "postmaster.pid").read_text()
    home.stop()
    (home.data / "postmaster.pid").write_text(text.replace(str(live.pid), str(os.getpid()), 1))
    assert home.running() is None
    assert home.start().pid not in (live.pid, os.getpid())


def test_damaged_pid_files(folder):
    home = Server(folder / "home")
    home.start()
    home.stop()
    for text in ("", "x", "999999999\n", "-1\n/\n1\n5432\n/tmp\n\n0\nready\n", "\0" * 100):
        (home.data / "postmaster.pid").write_text(text)
        assert home.running() is None
        home.start()
        home.stop()


def test_the_socket_folder_was_cleaned_away(folder):
    """Logging out removes XDG_RUNTIME_DIR and the socket in it; the next start makes a reachable server."""
    live = Server(folder / "home").start()
    shutil.rmtree(live.socket_dir)
    with connect(Server(folder / "home").start()) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_somebody_elses_socket_folder(folder, monkeypatch):
    """A folder with the socket folder's name that is not private, or is a link, is refused."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    live = Server(folder / "home").start()
    Server(folder / "home").stop()
    shutil.rmtree(live.socket_dir)
    live.socket_dir.symlink_to(folder)
    with pytest.raises(KitError, match="not a private folder"):
        Server(folder / "home").start()
    live.socket_dir.unlink()
    live.socket_dir.mkdir(mode=0o777)
    live.socket_dir.chmod(0o777)
    with pytest.raises(KitError, match="not a private folder"):
        Server(folder / "home").start()
    live.socket_dir.rmdir()


@pytest.mark.parametrize("place", ["/proc/pg_llm", "/dev/null/pg_llm", "/sys/pg_llm"])
def test_a_folder_that_cannot_be_written(place, extension, monkeypatch):
    monkeypatch.setenv("PG_LLM_EXTENSION", str(extension))
    with pytest.raises(KitError, match=r"cannot be written.*PG_LLM_HOME"):
        Server(place).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(folder):
    (folder / "home").mkdir(mode=0o555)
    with pytest.raises(KitError, match=r"cannot be written.*PG_LLM_HOME"):
        Server(folder / "home").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_root_and_a_folder_that_the_servers_user_cannot_enter(folder):
    (folder / "private").mkdir(mode=0o700)
    with pytest.raises(KitError, match="refuses to run as root.*PG_LLM_HOME"):
        Server(folder / "private" / "home").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_root_and_programs_that_the_servers_user_cannot_read(folder, extension, monkeypatch):
    """A virtual environment below /root: programs and extension are copied, again when they change."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    shutil.copytree(extension, private / "extension")
    monkeypatch.setenv("PG_LLM_EXTENSION", str(private / "extension"))
    home = Server(folder / "home")
    live = home.start()
    assert (home.home / "server") in Path(psutil.Process(live.pid).exe()).parents
    with connect(live) as conn:
        conn.execute("LOAD 'pg_llm'")
        before = conn.execute("SHOW dynamic_library_path").fetchone()[0]
    sql = next((private / "extension" / "share" / "extension").glob("pg_llm--*.sql"))
    sql.write_text(sql.read_text() + "\n")
    with connect(home.start()) as conn:
        time.sleep(0.2)
        after = conn.execute("SHOW dynamic_library_path").fetchone()[0]
    assert before != after
    home.stop()
    home.start()
    assert len(list((home.home / "server").iterdir())) == 1, "copies that nobody uses are removed"


def test_a_checkout_uses_the_extension_that_is_installed(tmp_path, extension, monkeypatch):
    """After `pip install .`, Python started in the checkout imports the package there, without a library."""
    monkeypatch.delenv("PG_LLM_EXTENSION", raising=False)
    monkeypatch.setattr(binaries, "PACKAGE", tmp_path / "checkout")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    with pytest.raises(KitError, match="checkout/_extension; install the kit"):
        binaries.extension_folder()
    shutil.copytree(extension, tmp_path / "site" / "pg_llm" / "_extension")
    (tmp_path / "site" / "pg_llm-9.dist-info").mkdir()
    (tmp_path / "site" / "pg_llm-9.dist-info" / "METADATA").write_text("Name: pg-llm\nVersion: 9\n")
    assert binaries.extension_folder() == tmp_path / "site" / "pg_llm" / "_extension"


def test_an_upgrade_moves_the_extension(folder, extension, monkeypatch):
    """A running server receives the extension's new path; later sessions use it."""
    home = Server(folder / "home")
    pid = home.start().pid
    moved = folder / "moved extension"
    shutil.copytree(extension, moved)
    monkeypatch.setenv("PG_LLM_EXTENSION", str(moved))
    live = home.start()
    assert live.pid == pid
    time.sleep(0.2)
    with connect(live) as conn:
        assert str(moved) in conn.execute("SHOW dynamic_library_path").fetchone()[0]
        conn.execute("CREATE EXTENSION pg_llm")


def test_data_of_another_major_version(folder):
    home = Server(folder / "home")
    home.start()
    home.stop()
    (home.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(KitError, match=r"made by PostgreSQL 17, the kit's server is 18"):
        home.start()


def test_an_interrupted_initdb_leaves_no_data_folder(folder):
    home = Server(folder / "home")
    (folder / "home" / "data.new" / "base").mkdir(parents=True)
    home.start()
    assert not (folder / "home" / "data.new").exists()


def test_a_lock_held_where_we_cannot_see(folder, monkeypatch):
    """A server of another container: its process is invisible, its lock is visible."""
    home = Server(folder / "home")
    home.start()
    home.stop()
    monkeypatch.setattr(server, "LIFE_SECONDS", 0.2)
    with processes.flock(home.home / "server.lock", wait=1):
        with pytest.raises(KitError, match="another container"):
            home.start()


def test_settings_that_break_the_start_are_shown(folder):
    """The end of the server's log is in the error."""
    home = Server(folder / "home")
    home.start()
    home.stop()
    with (home.data / "postgresql.conf").open("a") as conf:
        conf.write("work_mem = 'lots'\n")
    with pytest.raises(KitError, match="work_mem"):
        home.start()


def test_the_users_own_settings_win(folder):
    home = Server(folder / "home")
    home.start()
    home.stop()
    with (home.data / "postgresql.conf").open("a") as conf:
        conf.write("max_connections = 33\n")
    with connect(home.start()) as conn:
        assert conn.execute("SHOW max_connections").fetchone() == ("33",)


def test_tcp_only_when_asked_and_with_a_password(folder):
    home = Server(folder / "home")
    with pytest.raises(KitError, match="needs a password"):
        home.start(port=1)
    port = free_port()
    live = home.start(port=port, password="it's secret")
    where = {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**where, password="it's secret") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**where, password="wrong")
    assert home.start() == live, "who does not ask for TCP takes the server as it is"
    for elsewhere in ({"port": port, "listen": "*"}, {"port": 5432}):
        with pytest.raises(KitError, match=f"with TCP on localhost port {port}; run 'pg-llm stop'"):
            home.start(**elsewhere, password="x")
    home.stop()
    home.start()
    with pytest.raises(KitError, match="already runs without TCP"):
        home.start(port=port, password="x")


def test_the_environments_postgres_variables_do_not_matter(folder, monkeypatch):
    """Every variable of libpq, with a value that fails: for the server, our connections and programs."""
    monkeypatch.setenv("PG_LLM_HOME", str(folder / "home"))
    known = [option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar]
    known += ["PGDATA", "PGSERVICEFILE", "PGSYSCONFDIR", "PGDATESTYLE", "PGTZ", "PGGEQO"]
    assert {"PGSERVICE", "PGHOSTADDR", "PGOPTIONS", "PGREQUIREAUTH", "PGREQUIREPEER"} <= {*known}
    for name in known:
        monkeypatch.setenv(name, "/nowhere")
    live = Server().start()
    Server().set_password(live, "x")
    with open_database("postgres") as conn:
        assert conn.execute("SHOW port").fetchone() == (str(settings.PORT),)
        command = clients.command(conn, "psql", "-XAtc", "SHOW port")
        done = subprocess.run(**command, capture_output=True, text=True)
    assert done.stdout == f"{settings.PORT}\n", done.stderr
    psql = [sys.executable, "-m", "pg_llm", "psql", "-XAtc", "SELECT current_user"]
    root = {**os.environ, "PYTHONPATH": str(binaries.PACKAGE.parent)}
    assert subprocess.run(psql, capture_output=True, text=True, env=root).stdout == f"{server.SUPERUSER}\n"
    assert os.environ["PGSERVICE"] == "/nowhere", "a program's other connections keep them"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every user has a name")
def test_a_user_id_without_a_name(folder, monkeypatch):
    """As in a container with `docker run -u 12345`: initdb asks for the user's name."""
    nobody = binaries.RunAs("id 12345", 12345, 0, {"user": 12345, "group": 0, "extra_groups": []})
    (folder / "home").mkdir()
    os.chown(folder / "home", nobody.uid, nobody.gid)
    monkeypatch.setattr(binaries, "run_as", lambda: nobody)
    monkeypatch.setattr(binaries, "_known", lambda user: None)
    with connect(Server(folder / "home").start()) as conn:
        assert conn.execute("SELECT current_user").fetchone() == ("postgres",)
    Server(folder / "home").stop()
    shutil.copytree(binaries.extension_folder() / "share", folder / "without" / "share")
    monkeypatch.setenv("PG_LLM_EXTENSION", str(folder / "without"))
    with pytest.raises(KitError, match="has no name, which initdb needs"):
        Server(folder / "other").start()


def test_no_home_folder(monkeypatch):
    """A user id without a name and without HOME has no data folder."""
    for name in ("PG_LLM_HOME", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(KitError, match="user id 12345 has no home folder; set PG_LLM_HOME"):
        server.default_home()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_the_servers_user_may_enter_the_folder_whatever_roots_umask(folder):
    before = os.umask(0o077)
    try:
        with connect(Server(folder / "a" / "home").start()) as conn:
            conn.execute("LOAD 'pg_llm'")
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts a /dev/shm")
@pytest.mark.parametrize("options", ["size=4k", "mode=755", "ro"])
def test_a_dev_shm_without_room(folder, options):
    """Full, reserved for root, or read-only: initdb and the server use files instead."""
    mounted = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o "$0" none /dev/shm && exec "$@"', options]
    code = "import sys; from pg_llm.server.server import Server; Server(sys.argv[1]).start()"
    root = {**os.environ, "PYTHONPATH": str(binaries.PACKAGE.parent)}
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    subprocess.run([*mounted, sys.executable, "-c", code, str(folder / "home")], env=root, check=True)
    with connect(Server(folder / "home").start()) as conn:
        assert conn.execute("SHOW dynamic_shared_memory_type").fetchone() == ("mmap",)


def test_paths_outside_ascii_in_an_ascii_locale(folder, extension):
    """Python then reads and writes files as ASCII, unless it is told their encoding."""
    strange = folder / "Schülerin ñ"
    shutil.copytree(extension, strange / "extension")
    root = {**os.environ, "PYTHONPATH": str(binaries.PACKAGE.parent), "PYTHONUTF8": "0", "LC_ALL": "C"}
    root |= {"PG_LLM_HOME": str(strange / "home"), "PG_LLM_EXTENSION": str(strange / "extension")}
    for command in ("start", "start", "status", "stop"):  # the second start reads what the first one wrote
        done = subprocess.run([sys.executable, "-m", "pg_llm", command], env=root, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_temporary_files_are_limited(server):
    """A GROUP BY over tensors writes them all; without a limit it fills the disk."""
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
        kilobytes = int(
            conn.execute("SELECT setting FROM pg_settings WHERE name = 'temp_file_limit'").fetchone()[0]
        )
    assert 128 << 10 <= kilobytes <= 2048 << 10


def test_the_log_is_small_again_after_a_checkpoint(server):
    """What a training run wrote is not kept for the next one."""
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
        for _ in range(10):
            conn.execute("SELECT pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")
        conn.execute("CHECKPOINT")
        segments = "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
        assert conn.execute(segments).fetchone()[0] < 5


@pytest.mark.parametrize(
    ("free", "log", "size"), [(500, 0, 2048), (15, 0, 1024), (4, 0, 256), (0.1, 0, 128), (2, 1.5, 256)]
)
def test_the_log_of_a_small_disk(tmp_path, monkeypatch, free, log, size):
    """A tenth of the free space, log not counted: a full disk would stop the server."""
    (tmp_path / "pg_wal").mkdir()
    with (tmp_path / "pg_wal" / "segment").open("wb") as file:
        file.truncate(int(log * 2**30))
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert settings._share_of_disk(tmp_path) == size
