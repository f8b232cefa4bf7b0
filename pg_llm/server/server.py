"""The embedded PostgreSQL server of one folder (PG_LLM_HOME): start, stop, status.

One server per folder. It listens on a socket in a private folder and on no TCP port unless asked. It outlives
the program that started it, so notebooks share it. Several programs may call everything here at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psutil

from pg_llm.errors import KitError
from pg_llm.server import binaries, processes, settings

SUPERUSER = "postgres"
START_SECONDS = 300  # crash recovery may replay much
STOP_SECONDS = 60
LIFE_SECONDS = 10  # time allowed for a server to exit


def default_home() -> Path:
    """PG_LLM_HOME, else the user's data folder; for root one that the server's user can enter."""
    if os.environ.get("PG_LLM_HOME"):
        return Path(os.environ["PG_LLM_HOME"]).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/pg_llm")
    try:
        return Path(platformdirs.user_data_dir("pg_llm")).expanduser()
    except RuntimeError:  # a user id of no name, and no HOME
        raise KitError(
            f"user id {os.geteuid()} has no home folder; set PG_LLM_HOME to a folder of yours"
        ) from None


@dataclass(frozen=True)
class Running:
    """The contents of a running server's postmaster.pid."""

    pid: int
    port: int
    socket_dir: Path
    listen: str
    ready: bool

    @property
    def socket(self) -> Path:
        """The path of the server's Unix socket."""
        return self.socket_dir / f".s.PGSQL.{self.port}"

    def conninfo(self, dbname: str = "postgres") -> dict:
        """Keyword arguments for psycopg.connect."""
        return {"host": str(self.socket_dir), "port": self.port, "user": SUPERUSER, "dbname": dbname}


class Server:
    """The server of a home folder; most callers only need Server().start()."""

    def __init__(self, home: Path | str | None = None):
        self.home = Path(home).expanduser().absolute() if home else default_home()
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self._log_start = 0

    def running(self) -> Running | None:
        """The live server of this folder, or None; a left-over postmaster.pid counts as None."""
        info = self._pid_file()
        return info if info and processes.serves(info.pid, self.data) else None

    def start(
        self, port: int | None = None, listen: str = "localhost", password: str | None = None
    ) -> Running:
        """Starts the server, or finds it running; port and listen open TCP, which then needs a password."""
        if port is not None and not password and not self.listens(port, listen):
            raise KitError(
                "a server on a TCP port needs a password; set PG_LLM_PASSWORD or answer the prompt"
            )
        live = self.running()
        if port is None and live and live.ready and live.socket.exists() and self._refresh():
            return live
        with self._lock():
            live = self.running()
            if live and not live.socket.exists() and live.ready:
                # The folder of the socket was removed (logging out removes XDG_RUNTIME_DIR).
                self._stop(live)
                live = None
            if port is not None:
                self.listens(port, listen)
            live = live or self._launch(port, listen if port else "")
            live = live if live.ready else self._wait_ready(live.pid)
            if password:
                self.set_password(live, password)
        self._refresh()
        return live

    def listens(self, port: int, listen: str = "localhost") -> bool:
        """True if the server runs at that TCP port, False if none runs; KitError if it runs elsewhere."""
        live = self.running()
        if live and (live.port != port or live.listen != listen.split(",")[0]):
            there = f"with TCP on {live.listen} port {live.port}" if live.listen else "without TCP"
            raise KitError(f"the server already runs {there}; run 'pg-llm stop' first")
        return live is not None

    def stop(self) -> bool:
        """Stops the server (open transactions roll back, nothing committed is lost); False if none ran."""
        if not self.running():
            return False
        with self._lock():
            live = self.running()
            if live:
                self._stop(live)
        return bool(live)

    # -- the parts ----------------------------------------

    def _launch(self, port: int | None, listen: str) -> Running:
        user, found = self._prepare(port, listen)
        # The server inherits the locked descriptor, so the lock is held while one of its processes lives: a
        # second server on this folder is refused even from another container, where process ids are
        # meaningless.
        with self._life_lock() as descriptor:
            started = user.run(
                ["/bin/sh", "-c", '"$@" </dev/null >>"$LOG" 2>&1 & echo $!', "sh", *self._command(found)],
                env={**processes.environment(), "LOG": str(self.log)},
                pass_fds=[descriptor],
                start_new_session=True,
                umask=0o077,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                capture_output=False,
            )
        return self._wait_ready(int(started.stdout))

    def become(self, port: int, listen: str) -> None:
        """Replaces this process by the server, on TCP, logging to stderr, for a container."""
        with self._lock():
            if self.running():
                raise KitError("the server of this folder runs already")
            user, found = self._prepare(port, listen)
            with self._life_lock() as descriptor:
                os.set_inheritable(descriptor, True)
                if user.switch:
                    os.setgroups([])
                    os.setgid(user.gid)
                    os.setuid(user.uid)
                os.umask(0o077)
                os.execve(found.bin / "postgres", self._command(found), processes.environment())

    def _command(self, found: binaries.Programs) -> list:
        return [found.bin / "postgres", "-D", self.data]

    def _prepare(self, port: int | None, listen: str) -> tuple[binaries.RunAs, binaries.Programs]:
        """Everything before the start itself: data folder, settings, removal of a previous server's files."""
        user = binaries.run_as()
        found = binaries.usable_by(user, self.home)
        self._end_orphans()
        binaries.forget_copies(self.home, found)
        self._check_data(user, found)
        if not (self.data / "PG_VERSION").exists():
            self._initdb(user, found)
        text = settings.render(
            found, self.data, processes.socket_dir(self.home, user), port or settings.PORT, listen
        )
        settings.write(self.data / settings.FILE, text, user)
        self._open_log(user)
        return user, found

    def _wait_ready(self, pid: int) -> Running:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            info = self._pid_file()
            if info and info.ready and processes.serves(info.pid, self.data):
                return info
            if not processes.alive(pid):
                raise KitError(f"PostgreSQL did not start; {self.log} says: {self._complaint()}")
            time.sleep(0.02)
        raise KitError(f"PostgreSQL is not ready after {START_SECONDS} s (recovering?); see {self.log}")

    def _stop(self, live: Running) -> None:
        try:
            os.kill(live.pid, signal.SIGINT)
        except ProcessLookupError:
            return
        except PermissionError:
            raise KitError(
                f"the server (process {live.pid}) belongs to another user; stop it as that user"
            ) from None
        deadline = time.monotonic() + STOP_SECONDS
        while processes.alive(live.pid):
            if time.monotonic() > deadline:
                raise KitError(
                    f"the server (process {live.pid}) has not stopped after {STOP_SECONDS} s; see {self.log}"
                )
            time.sleep(0.02)

    def _refresh(self) -> bool:
        """Gives a running server the extension's path after an upgrade; True if the server has it."""
        live = self.running()
        if not live:
            return False
        path = self.data / settings.FILE
        try:
            have = settings.read(path)
        except PermissionError:
            return True  # another user's server: usable, but not ours to change
        found = binaries.usable_by(binaries.run_as(), self.home)
        want = settings.render(found, self.data, live.socket_dir, live.port, live.listen)
        if settings.paths_of(have) != settings.paths_of(want):
            with self._lock():
                settings.write(path, settings.with_paths(have, want), binaries.run_as())
                os.kill(live.pid, signal.SIGHUP)
        return True

    def _initdb(self, user: binaries.RunAs, found: binaries.Programs) -> None:
        # Created under another name and renamed: an interrupted initdb leaves nothing that looks like data.
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        os.chown(fresh, user.uid, user.gid)
        made = user.run(
            [found.bin / "initdb", "-D", fresh, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C"]
            + ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
            + ["-c", f"dynamic_shared_memory_type={settings.dynamic_shared_memory()}"],
            env={**processes.environment(), **binaries.user_name(found)},
        )
        if made.returncode != 0:
            raise KitError(f"initdb failed in {self.home}: {(made.stderr or made.stdout).strip()}")
        settings.prepare(fresh, user)
        fresh.rename(self.data)

    def _check_data(self, user: binaries.RunAs, found: binaries.Programs) -> None:
        version = self.data / "PG_VERSION"
        if self.data.exists() and self.data.stat().st_uid != user.uid:
            raise KitError(f"{self.data} belongs to user id {self.data.stat().st_uid}, not to {user.name}")
        if version.exists() and version.read_text().strip() != found.major:
            raise KitError(
                f"{self.data} was made by PostgreSQL {version.read_text().strip()}, the kit's server is "
                f"{found.major}; dump it with the old kit, or move {self.home} away to start afresh"
            )

    def _end_orphans(self) -> None:
        """Ends sessions that survive a kill -9 of the server: they compute on and hold shared memory."""
        for sig, seconds in ((signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            orphans = [p for p in psutil.process_iter() if processes.serves(p.pid, self.data)]
            for process in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, sig)
            psutil.wait_procs(orphans, timeout=seconds)
        with self._life_lock():
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def set_password(self, live: Running, password: str) -> None:
        """Sets the superuser's password, which TCP connections require."""
        import psycopg
        from psycopg import sql

        with processes.without_libpq_variables():
            conn = psycopg.connect(**live.conninfo(), autocommit=True)
        with conn:
            conn.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(SUPERUSER), sql.Literal(password))
            )

    def _pid_file(self) -> Running | None:
        try:
            lines = settings.read(self.data / "postmaster.pid").splitlines()
        except OSError:
            return None
        if len(lines) < 8 or not lines[0].isdigit() or not lines[3].isdigit():
            return None
        return Running(
            int(lines[0]), int(lines[3]), Path(lines[4]), lines[5].strip(), lines[7].strip() == "ready"
        )

    def _open_log(self, user: binaries.RunAs) -> None:
        if self.log.exists() and self.log.stat().st_size > 10_000_000:
            self.log.replace(self.log.with_suffix(".old"))
        self.log.touch(mode=0o600)
        self._log_start = self.log.stat().st_size
        os.chown(self.log, user.uid, user.gid)

    def _complaint(self) -> str:
        """The last log messages of the server since its last start, in one line."""
        with contextlib.suppress(OSError):
            with self.log.open("rb") as file:
                file.seek(self._log_start)
                lines = file.read().decode(errors="replace").splitlines()
            return "; ".join(re.sub(r"^.*?\] ", "", line) for line in lines[-5:])
        return ""

    @contextlib.contextmanager
    def _lock(self):
        """Lets one program at a time start or stop the server of this folder."""
        with processes.flock(self._writable_home() / "lock", wait=START_SECONDS):
            yield

    @contextlib.contextmanager
    def _life_lock(self):
        with processes.flock(self.home / "server.lock", wait=LIFE_SECONDS) as descriptor:
            yield descriptor

    def _writable_home(self) -> Path:
        try:
            new = [folder for folder in (self.home, *self.home.parents) if not folder.exists()]
            self.home.mkdir(parents=True, exist_ok=True)
            for folder in new if binaries.run_as().switch else []:
                folder.chmod(0o755)  # whatever root's umask: the server's user must enter them
            with tempfile.TemporaryFile(dir=self.home):
                pass
        except OSError as error:
            raise KitError(
                f"folder {self.home} cannot be written ({error.strerror}); set PG_LLM_HOME to one of yours"
            ) from None
        user = binaries.run_as()
        if user.switch and user.run(["/bin/sh", "-c", 'test -x "$1"', "sh", self.home]).returncode != 0:
            raise KitError(
                f"the server runs as user {user.name} (PostgreSQL refuses to run as root), who cannot enter "
                f"{self.home}; set PG_LLM_HOME to a folder such as /var/lib/pg_llm"
            )
        return self.home
