"""pg-llm lab: starts the server, copies the notebooks for the learner, and opens JupyterLab on the copy.

What a learner writes is in no file that an update of the course replaces: neither in the installed package
nor in a checkout, where it would stop `git pull`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pg_llm.errors import KitError
from pg_llm.server import server

PACKAGE = Path(__file__).resolve().parent.parent
MANIFEST = ".pg_llm.json"
COPY = "my_notebooks"  # of a checkout; .gitignore names it
FIRST = "00_start_here.ipynb"
Prepare = Callable[[Path, Path], object]


def run(echo, browser: bool, arguments: list[str], prepare: Prepare | None = None) -> None:
    """Replaces this process by JupyterLab; returns only if something is missing.

    prepare: as for notebooks().
    """
    from pg_llm.server import database

    if not database.dsn():
        echo(f"PostgreSQL: {server.default_home()}")
    database.connect().close()
    folder = notebooks(echo, prepare=prepare)
    echo(f"Notebooks:  {folder}")
    if not database.dsn():
        echo(f"The server keeps running when JupyterLab ends; '{command_name()} stop' stops it.")
    command = [sys.executable, "-m", "jupyterlab", *options(folder)]
    if not browser:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    # Terminals in JupyterLab find pg-llm, whether or not the environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # A notebook kernel must find the server that was started here, whatever its own environment contains.
    os.environ.setdefault("PG_LLM_HOME", str(server.default_home()))
    # JupyterLab keeps files in HOME, which a user id without a name does not have.
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ["HOME"] = os.environ["PG_LLM_HOME"]
    os.environ.update(environment())
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *arguments])


def options(folder: Path) -> list[str]:
    """JupyterLab's options: it shows the folder, and first of all 00_start_here."""
    first = [f"--LabApp.default_url=/lab/tree/{FIRST}"] if (folder / FIRST).exists() else []
    return [f"--ServerApp.root_dir={folder}", *first]


def environment() -> dict[str, str]:
    """What makes Jupyter find our files, from a checkout, too.

    jupyter_server_config.d switches saving.py on, labconfig the news off and the wrapping of lines on;
    labextensions highlights SQL; startup.py is run by kernels.
    """
    ours = PACKAGE / "notebook"
    names = ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH")
    paths = {name: os.pathsep.join(filter(None, [str(ours), os.environ.get(name, "")])) for name in names}
    return {"PYTHONSTARTUP": os.environ.get("PYTHONSTARTUP", str(ours / "startup.py")), **paths}


def command_name() -> str:
    """How the command pg-llm of this environment is called: by its path, where PATH does not find it."""
    ours, found = Path(sys.executable).with_name("pg-llm"), shutil.which("pg-llm")
    plain = not ours.exists() or (found and os.path.samefile(found, ours))
    return "pg-llm" if plain else shlex.quote(str(ours))


def notebooks(echo=print, folder: Path | None = None, prepare: Prepare | None = None) -> Path:
    """The learner's copy of the notebooks, brought up to date.

    folder: where it is; None: my_notebooks in a checkout that can be written, else PG_LLM_HOME/notebooks.
    prepare: copies the course's notebooks into an empty folder as this learner gets them; None: unchanged.
    """
    at_home, checkout = server.default_home() / "notebooks", PACKAGE.parent
    if (checkout / "notebooks").is_dir() and (checkout / "pyproject.toml").exists():
        source, edited = checkout / "notebooks", changed_in_git(checkout / "notebooks")
        folder = folder or (checkout / COPY if os.access(checkout, os.W_OK) else at_home)
    else:
        source, edited = PACKAGE / "notebooks", set()
    if not source.is_dir():
        raise KitError(
            "the notebooks are missing from the installed package; install it again: pip install ."
        )
    with tempfile.TemporaryDirectory() as made:
        if prepare:
            prepare(source, Path(made))
            source = Path(made)
        return update_copy(source, folder or at_home, echo, edited)


def changed_in_git(folder: Path) -> set[str]:
    """The files of a checkout's folder that differ from the last commit; none where git cannot say."""
    command = ["git", "-C", str(folder), "diff", "--name-only", "-z", "--relative", "HEAD", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return set()
    return set(filter(None, done.stdout.split("\0")))


def update_copy(packaged: Path, folder: Path, echo=print, edited: Iterable[str] = ()) -> Path:
    """Copies notebooks that are new or unchanged by the learner; a changed one is never overwritten.

    edited: files of packaged that are no edition of the course; their copies count as changed by the learner.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / MANIFEST
        given = json.loads(manifest.read_text()) if manifest.exists() else {}
        for source in sorted(p for p in packaged.rglob("*") if p.is_file()):
            name = source.relative_to(packaged).as_posix()
            if any(part.startswith((".", "__")) for part in Path(name).parts):
                continue  # what Jupyter and Python keep beside the files
            ours = _content(source)
            if given.get(name) == ours:
                continue  # this edition was copied before, whatever happened to it since
            target = folder / name
            for beside in _beside(target):
                place = beside.relative_to(folder).as_posix()
                if not beside.exists() or _content(beside) in (ours, given.get(place)):
                    break
            if beside != target:
                echo(f"{name} has your changes; the new edition lies beside it as {beside.name}")
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, beside)
            if name not in edited:
                given[name] = given[place] = ours
        manifest.write_text(json.dumps(given, indent=1, sort_keys=True))
    except OSError as error:
        raise KitError(f"the notebooks cannot be copied to {folder}: {error.strerror}") from None
    except json.JSONDecodeError:
        raise KitError(f"{folder / MANIFEST} is damaged; delete it and start again") from None
    return folder


def _beside(path: Path) -> Iterator[Path]:
    """The path, then those for new editions of a file that the learner has changed."""
    yield path
    for number in itertools.count(1):
        yield path.with_name(f"{path.stem}.new{number if number > 1 else ''}{path.suffix}")


def _content(path: Path) -> str:
    """A hash of the parts that a learner can change: a notebook's cell sources, not its outputs."""
    data = path.read_bytes()
    if path.suffix == ".ipynb":
        try:
            data = json.dumps([cell.get("source") for cell in json.loads(data)["cells"]]).encode()
        except (ValueError, KeyError, AttributeError, TypeError):
            pass  # no longer a notebook: every byte counts
    return hashlib.sha256(data).hexdigest()
