"""pg-llm lab: starts the server, puts the notebooks into a writable folder, and opens JupyterLab on it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from pg_llm.errors import KitError
from pg_llm.server import server

PACKAGE = Path(__file__).resolve().parent.parent
MANIFEST = ".pg_llm.json"


def run(echo, browser: bool, arguments: list[str]) -> None:
    """Replaces this process by JupyterLab; returns only if something is missing."""
    from pg_llm.server import database

    if not database.dsn():
        echo(f"PostgreSQL: {server.default_home()}")
    database.connect().close()
    folder = notebooks(echo)
    echo(f"Notebooks:  {folder}")
    if not database.dsn():
        echo(f"The server keeps running when JupyterLab ends; '{command_name()} stop' stops it.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    if not browser:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    # Terminals in JupyterLab find pg-llm, whether or not the environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # A notebook kernel must find the server that was started here, whatever its own environment contains.
    os.environ.setdefault("PG_LLM_HOME", str(server.default_home()))
    # From a checkout, too, Jupyter finds jupyter_server_config.d, which switches saving.py on.
    path = [str(PACKAGE / "notebook"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, path))
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *arguments])


def command_name() -> str:
    """How the command pg-llm of this environment is called: by its path, where PATH does not find it."""
    ours, found = Path(sys.executable).with_name("pg-llm"), shutil.which("pg-llm")
    plain = not ours.exists() or (found and os.path.samefile(found, ours))
    return "pg-llm" if plain else shlex.quote(str(ours))


def notebooks(echo=print) -> Path:
    """A checkout's own notebooks, else the learner's copy of the packaged ones."""
    checkout = PACKAGE.parent
    if (checkout / "notebooks").is_dir() and (checkout / "pyproject.toml").exists():
        return checkout / "notebooks"
    packaged = PACKAGE / "notebooks"
    if not packaged.is_dir():
        raise KitError(
            "the notebooks are missing from the installed package; install it again: pip install ."
        )
    return update_copy(packaged, server.default_home() / "notebooks", echo)


def update_copy(packaged: Path, folder: Path, echo=print) -> Path:
    """Copies notebooks that are new or unchanged by the learner; a changed one is never overwritten."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / MANIFEST
        given = json.loads(manifest.read_text()) if manifest.exists() else {}
        for source in sorted(p for p in packaged.rglob("*") if p.is_file()):
            name = source.relative_to(packaged).as_posix()
            ours = _content(source)
            if given.get(name) == ours:
                continue  # this edition was copied before, whatever happened to it since
            target = folder / name
            if target.exists() and _content(target) not in (ours, given.get(name)):
                target = target.with_name(f"{target.stem}.new{target.suffix}")
                echo(f"{name} has your changes; the new edition lies beside it as {target.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            given[name] = ours
        manifest.write_text(json.dumps(given, indent=1, sort_keys=True))
    except OSError as error:
        raise KitError(f"the notebooks cannot be copied to {folder}: {error.strerror}") from None
    except json.JSONDecodeError:
        raise KitError(f"{folder / MANIFEST} is damaged; delete it and start again") from None
    return folder


def _content(path: Path) -> str:
    """A hash of the parts that a learner can change: a notebook's cell sources, not its outputs."""
    data = path.read_bytes()
    if path.suffix == ".ipynb":
        try:
            data = json.dumps([cell.get("source") for cell in json.loads(data)["cells"]]).encode()
        except (ValueError, KeyError, AttributeError, TypeError):
            pass  # no longer a notebook: every byte counts
    return hashlib.sha256(data).hexdigest()
