"""A private copy of an installed PostgreSQL (15, 16 or 18) with the extension installed by `make install`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
from filelock import FileLock

from helpers.paths import REPO, cache_folder
from pg_llm.build import build_extension
from pg_llm.server import binaries


def pg_config_of(version: int) -> Path | None:
    """pg_config of a PostgreSQL on this machine whose headers are installed too, else None."""
    if version in (16, 18):
        path = (
            binaries.server_package()
            / ("pginstall18" if version == 18 else "pginstall")
            / "bin"
            / "pg_config"
        )
    else:
        path = Path(f"/usr/lib/postgresql/{version}/bin/pg_config")
    if not path.exists():
        return None
    headers = Path(ask(path, "--includedir-server")) / "postgres.h"
    return path if headers.exists() else None


def ask(pg_config: Path, what: str) -> str:
    """One value from pg_config."""
    return subprocess.run([pg_config, what], capture_output=True, text=True, check=True).stdout.strip()


def installed(version: int) -> PgInstall:
    """That PostgreSQL with the tree's extension; made once for all files and workers of a test session."""
    folder = cache_folder() / f"pg{version}"
    this_run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with FileLock(f"{folder}.lock"):
        install = PgInstall(version, folder)
        # A second `make install` would replace the library under the servers that another worker runs.
        stamp = folder / "installed_by"
        if not stamp.exists() or stamp.read_text() != this_run:
            stamp.unlink(missing_ok=True)
            install.install_extension(REPO / "extension")
            stamp.write_text(this_run)
    return install


class PgInstall:
    """A copied PostgreSQL below `folder`: it finds its files relative to its programs."""

    def __init__(self, version: int, folder: Path):
        self.version = version
        self.folder = folder
        self.work = folder / "build"  # build folder of the extension
        self.user = binaries.run_as()
        origin = pg_config_of(version)
        parts = {name: Path(ask(origin, f"--{name}")) for name in ("bindir", "pkglibdir", "sharedir")}
        includes = Path(ask(origin, "--includedir-server")), Path(ask(origin, "--includedir"))
        base = Path(os.path.commonpath([*parts.values(), *includes]))
        self.prefix = folder / (base.parent.name or "root") / base.name
        self.bin = self._place(base, parts["bindir"])
        for source in parts.values():
            if not self._place(base, source).exists():
                ignore = shutil.ignore_patterns("bitcode")
                shutil.copytree(source, self._place(base, source), symlinks=False, ignore=ignore)
        for source in includes:
            target = self._place(base, source)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
        # The programs of the Python package find their shared libraries three folders up.
        libraries = base.parent.parent / (base.parent.name + ".libs")
        if libraries.exists() and not (folder / libraries.name).exists():
            shutil.copytree(libraries, folder / libraries.name)

        self._mend_pg_regress()

    def _mend_pg_regress(self):
        """Replaces the package's pg_regress 18, which crashes with signal 11, by the equivalent of 16."""
        mine = self.pg_regress(self.prefix)
        if mine is None or subprocess.run([mine, "--version"], capture_output=True).returncode == 0:
            return
        other = self.pg_regress(binaries.server_package() / "pginstall")
        shutil.copy2(other, mine)

    @staticmethod
    def pg_regress(prefix: Path) -> Path | None:
        return next(prefix.rglob("pgxs/src/test/regress/pg_regress"), None)

    def _place(self, base: Path, path: Path) -> Path:
        return self.prefix / path.relative_to(base)

    def install_extension(self, source: Path) -> None:
        """Runs make install with warnings as errors."""
        build_extension.compile_for(
            source, self.work, self.bin / "pg_config", "LLM_WERROR=-Werror", "install"
        )


class PgServer:
    """A running server of a PgInstall, socket only, created for the test and deleted afterwards."""

    def __init__(self, install: PgInstall, folder: Path):
        self.install = install
        # Two test files may start a server of one version in one folder.
        self.data = Path(tempfile.mkdtemp(prefix=f"data{install.version}-", dir=folder))
        self.log = self.data / "server.log"
        self.sockets = Path(tempfile.mkdtemp(prefix=f"s{install.version}-", dir=folder))
        for path in (self.data, self.sockets):
            os.chown(path, install.user.uid, install.user.gid)
        self._run(
            "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"
        )
        options = f"-c listen_addresses='' -c unix_socket_directories={self.sockets} -c fsync=off"
        self._run(
            "pg_ctl", "-w", "-D", self.data, "-l", self.log, "-o", options, "start", capture_output=False
        )

    def _run(self, program: str, *arguments, **kwargs):
        done = self.install.user.run([self.install.bin / program, *arguments], **kwargs)
        assert done.returncode == 0, f"{program}: {done.stdout} {done.stderr}"
        return done

    def client(self, program: str, *arguments) -> str:
        """Runs psql, pg_dump or another client program against this server; returns its output."""
        return self._run(program, "-h", self.sockets, "-U", "postgres", *arguments).stdout

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(host=str(self.sockets), user="postgres", dbname=database, autocommit=True)

    def environment(self) -> dict:
        """Environment variables for programs that read PGHOST and PGUSER."""
        return {**os.environ, "PGHOST": str(self.sockets), "PGUSER": "postgres"}

    def stop(self):
        self._run("pg_ctl", "-w", "-m", "fast", "-D", self.data, "stop")
