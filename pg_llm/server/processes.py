"""Processes, locks and folders of the embedded server, as the operating system knows them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import threading
import time
from pathlib import Path

import psutil

from pg_llm.errors import KitError
from pg_llm.server import binaries

_hiding = threading.RLock()


@contextlib.contextmanager
def flock(path: Path, wait: float):
    """Holds the exclusive lock of a file, which ends with the last process that has the descriptor."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KitError(
            f"{path} cannot be opened ({error.strerror}); does it belong to another user?"
        ) from None
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KitError(
                        f"{path.parent} is in use by a program that cannot be seen from here "
                        "(another container?); stop it there first"
                    ) from None
                time.sleep(0.02)
        yield descriptor
    finally:
        os.close(descriptor)


def socket_dir(home: Path, user: binaries.RunAs) -> Path:
    """A short private folder for the socket: the kernel accepts only paths up to 107 bytes."""
    name = "pg_llm-" + hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path("/tmp") / f"{name}-{user.uid}"
    if (
        runtime
        and not user.switch
        and os.access(runtime, os.W_OK | os.X_OK)
        and len(os.fsencode(runtime)) < 70
        and runtime.isascii()
    ):
        folder = Path(runtime) / name
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, user.uid, user.gid)
    except FileExistsError:
        pass
    except OSError as error:
        raise KitError(
            f"the folder {folder} for the server's socket cannot be made ({error.strerror})"
        ) from None
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user.uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise KitError(
            f"{folder} is not a private folder of user {user.name} (somebody else made it?); remove it"
        )
    return folder


def environment() -> dict:
    """The environment without libpq's variables: PGPORT and similar ones would affect the server, too."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PG_LLM")}


@contextlib.contextmanager
def without_libpq_variables():
    """Hides libpq's variables, of which PGSERVICE and others would redirect or break a connection made here.

    Not all of them can be overridden by a connection's parameters, an empty service for example.
    """
    with _hiding:
        hidden = {name: os.environ.pop(name) for name in os.environ.keys() - environment().keys()}
        try:
            yield
        finally:
            os.environ.update(hidden)


def alive(pid: int) -> bool:
    """True if a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def serves(pid: int, data: Path) -> bool:
    """True if a process belongs to the server of that data folder, the working directory of its processes."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return False
        return os.path.samefile(_cwd(process), data)
    except (psutil.Error, OSError):
        return False


def _cwd(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.AccessDenied:
        # Root in a container may not inspect another user's process, but that user may.
        look = ["/bin/sh", "-c", 'cd "/proc/$1/cwd" && pwd -P', "sh", process.pid]
        return binaries.run_as().run(look).stdout.rstrip("\n")
