"""pg-llm doctor and status: what the kit needs, what it finds, and how to fix what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from pg_llm import __version__, catalog
from pg_llm.errors import KitError
from pg_llm.server import binaries, database, settings, template
from pg_llm.server.connect import maintenance, open_database, parameters
from pg_llm.server.server import Running, Server
from pg_llm.server.template import TEMPLATE

MEGABYTE = 1 << 20
# What the server image leaves out (binder/server-requirements.txt).
NOTEBOOK_PACKAGES = frozenset(
    ("anywidget", "ipython-sql", "ipywidgets", "jupyterlab", "matplotlib", "pandas", "sqlalchemy")
)
SQL_PACKAGES = ("ipython-sql", "jupysql")  # either of them; both install a package sql


def server_facts() -> tuple[dict[str, str], bool]:
    """The facts printed by `pg-llm status`, and whether a server answers."""
    facts = {"kit": f"pg_llm {__version__}"}
    if elsewhere := database.dsn():
        parameters(elsewhere)  # wrong use, not a server that does not answer
        try:
            with open_database(None) as conn:
                version = catalog.value(conn, "SHOW server_version")
                facts["server"] = f"PostgreSQL {version} at {conn.info.host or 'a local socket'} (PG_LLM_DSN)"
        except KitError as error:
            return {**facts, "server": str(error)}, False
        return facts, True
    server = Server()
    facts["folder"] = str(server.home)
    live = server.running()
    if not live:
        return {**facts, "server": "does not run; 'pg-llm start' starts it"}, False
    facts["server"] = f"PostgreSQL runs, process {live.pid}, since {_since(live.pid)}"
    facts["socket"] = str(live.socket)
    facts["tcp"] = f"{live.listen} port {live.port}" if live.listen else "none"
    with open_database("postgres") as conn:
        facts["version"] = catalog.value(conn, "SHOW server_version")
        query = "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
        facts["sessions"] = str(catalog.value(conn, query))
    for number, problem in enumerate(_upgrade_problems(server, live)):
        facts[f"attention {number + 1}" if number else "attention"] = problem
    return facts, True


def examine(echo) -> int:
    """Prints one line per check; returns the number of failed ones, at most 1."""
    failed = 0
    for check in CHECKS:
        title = (check.__doc__ or "").splitlines()[0].rstrip(".")
        try:
            for line in check():
                echo(f"  ok    {title}: {line}")
        except _Attention as note:
            echo(f"  note  {title}: {note}")
        except KitError as error:
            failed = 1
            echo(f"  BAD   {title}: {error}")
        except Exception as error:  # a check that itself breaks is a finding, not a traceback
            failed = 1
            echo(f"  BAD   {title}: {type(error).__name__}: {' '.join(str(error).split())}")
    echo("something is wrong: see the lines marked BAD" if failed else "everything the kit needs is there")
    return failed


class _Attention(Exception):
    """A finding worth knowing that is no error."""


def _python():
    """Python."""
    yield f"{sys.version.split()[0]} in {sys.prefix}"


def _packages():
    """Packages."""
    missing, wrong = [], []
    try:
        requirements = importlib.metadata.requires("pg-llm") or []
    except importlib.metadata.PackageNotFoundError:
        raise _Attention("the kit is not installed here, it runs from a checkout") from None
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = _version(requirement.name)
        if have is None:
            if requirement.name not in SQL_PACKAGES or not any(map(_version, SQL_PACKAGES)):
                missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have} instead of {requirement.specifier}")
    if not wrong and {*missing} == NOTEBOOK_PACKAGES:
        raise _Attention("the server's are all there; the notebooks' are not installed")
    if missing or wrong:
        what = "; ".join([*(f"{name} is missing" for name in missing), *wrong])
        raise KitError(f"{what}; install the kit again: pip install .")
    yield "all there"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sql_package():
    """%sql on other databases."""
    found = " and ".join(f"{name} {_version(name)}" for name in SQL_PACKAGES if _version(name))
    if not found:
        raise _Attention("needs a package that is not installed: pip install jupysql")
    try:
        importlib.import_module("sql.magic")
        is_jupysql = hasattr(importlib.import_module("sql.connection"), "ConnectionManager")
    except Exception as error:  # one of them overwrote a part of the other, which fails in many ways
        raise _Attention(
            f"the package sql of {found} fails ({type(error).__name__}: {' '.join(str(error).split())}); "
            "for databases other than the notebook's: pip install --force-reinstall --no-deps jupysql"
        ) from None
    yield found + (f", of which {SQL_PACKAGES[is_jupysql]} is in use" if " and " in found else "")


def _postgresql():
    """PostgreSQL programs."""
    found = binaries.installed()
    yield f"PostgreSQL {found.major} in {found.bin}"


def _extension():
    """Compiled extension."""
    folder = binaries.extension_folder()
    if not list((folder / "lib").glob("pg_llm.*")):
        raise KitError(f"no library in {folder}/lib; install the kit again: pip install --force-reinstall .")
    yield f"build {binaries.build_hash(folder)} in {folder}"


def _folder():
    """Data folder."""
    server = Server()
    server._writable_home()
    free = shutil.disk_usage(server.home).free // MEGABYTE
    if free < 500:
        raise KitError(f"only {free} MB are free in {server.home}: make room, or set PG_LLM_HOME")
    yield f"{server.home}, {free} MB free"


def _machine():
    """Machine."""
    memory = settings.memory_bytes() // MEGABYTE
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if memory < 1500:
        raise _Attention(f"{memory} MB of memory: the course's own models fit, gpt2-small does not")
    yield f"{memory} MB of memory, {cpus} processors"


def _server():
    """Server."""
    if not database.dsn():
        server = Server()
        live = server.start()
        problems = _upgrade_problems(server, live)
        if problems:
            raise _Attention("; ".join(problems))
    with open_database(None if database.dsn() else "postgres") as conn:
        version = catalog.value(conn, "SHOW server_version")
        if conn.info.server_version < 150000:
            raise KitError(f"PostgreSQL {version} is too old; 15 or newer is needed")
        conn.execute("SHOW fsync")
        yield f"PostgreSQL {version} answers"


def _template():
    """Template database."""
    with database.connect(fresh=True) as conn:
        query = "SELECT count(*) FROM {0}.llm_bpe_vocab WHERE model = 'gpt2'"
        tokens = catalog.value(conn, catalog.qualified(conn, query))
    if tokens != 50257:
        raise KitError(f"GPT-2's tokenizer has {tokens} tokens, not 50257; drop database {TEMPLATE}")
    yield f"build {database.current_build()}, a new database can be made from it"


def _databases():
    """Databases."""
    with maintenance() as conn:
        names = [row[0] for row in conn.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()]
        notes = {name: template.read_note(conn, name) for name in names if name != TEMPLATE}
        ours = {name: note for name, note in notes.items() if template.build_key() in note}
        old = [name for name, note in ours.items() if not template.is_current(conn, note)]
    if old:
        raise _Attention(f"made by another build: {', '.join(old)}; `pg-llm update` brings them to this one")
    yield f"{len(ours)} of the kit's, all of this build"


def _upgrade_problems(server: Server, live: Running) -> list[str]:
    """Differences between the running server and the one installed now."""
    problems = []
    try:
        running = Path(psutil.Process(live.pid).exe())
        installed = binaries.usable_by(binaries.run_as(), server.home).bin / "postgres"
        if not running.exists() or not os.path.samefile(running, installed):
            problems.append(f"the server runs {running}, installed is {installed}: pg-llm stop, pg-llm start")
        started = psutil.Process(live.pid).create_time()
        library = max(p.stat().st_ctime for p in (binaries.extension_folder() / "lib").iterdir())
        if library > started:
            problems.append(
                "the extension is newer than the server; sessions opened before it still run the old one"
            )
    except (psutil.Error, OSError):
        pass  # the process of another user does not show its file
    return problems


def _since(pid: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(psutil.Process(pid).create_time()))


CHECKS = (
    _python, _packages, _sql_package, _postgresql, _extension,
    _folder, _machine, _server, _template, _databases,
)  # fmt: skip
