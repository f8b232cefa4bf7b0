"""Compiles extension/ for one PostgreSQL; used by the build backend and the tests, imports nothing else."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Compiled beside the extension, for user ids without a name (pg_llm/server/binaries.py).
USER_NAME = Path(__file__).resolve().parent.parent / "server" / "user_name.c"


class BuildError(RuntimeError):
    """The extension could not be compiled; the message is one sentence, then the compiler's output."""


def need_tools() -> None:
    """Raises an error of one sentence if the compiler or make is missing."""
    missing = [
        names for names in (("make", "gmake"), ("cc", "gcc", "clang")) if not any(map(shutil.which, names))
    ]
    if missing:
        what = " and ".join("make" if "make" in names else "a C compiler" for names in missing)
        raise BuildError(
            f"pg_llm is compiled during installation and {what} is missing: install gcc and make "
            "(Debian, Ubuntu: apt install gcc make libc6-dev; Fedora: dnf install gcc make; "
            "macOS: xcode-select --install)"
        )


def compile_for(source: Path, work: Path, pg_config: Path, *make_arguments: str) -> Path:
    """Copies source to work and compiles it there; returns work. Unchanged files are not compiled again."""
    need_tools()
    if " " in str(pg_config):
        pg_config = _without_spaces(Path(pg_config))
    if " " in str(work):
        raise BuildError(f"make cannot work in a folder whose name has spaces: {work}")
    mirror(source, work)
    command = [shutil.which("make") or "gmake", "-C", str(work), f"-j{min(4, os.cpu_count() or 1)}"]
    if "CC" in os.environ:
        make_arguments = (f"CC={os.environ['CC']}", *make_arguments)
    elif not shutil.which("gcc"):
        # The server was built with gcc, and PGXS asks for it.
        make_arguments = (f"CC={shutil.which('cc') or shutil.which('clang')}", *make_arguments)
    made = subprocess.run(
        [*command, f"PG_CONFIG={pg_config}", *make_arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if made.returncode != 0:
        lines = [line for line in made.stdout.splitlines() if "error: " in line or "*** " in line]
        hint = ""
        if "stdio.h" in made.stdout or "stdlib.h" in made.stdout:
            hint = " (the C library's headers are missing: apt install libc6-dev)"
        raise BuildError(
            f"the extension does not compile{hint}:\n"
            + "\n".join(lines[:20] or made.stdout.splitlines()[-20:])
        )
    return work


def collect(work: Path, target: Path) -> None:
    """Copies a compiled tree's files to where the server looks: target/lib and target/share/extension.

    On Linux it adds lib/user_name.so, which initdb needs where the user id has no name.
    """
    libraries = [p for p in work.glob("pg_llm.*") if p.suffix in (".so", ".dylib", ".dll")]
    if not libraries:
        raise BuildError(f"no library in {work} after make")
    lib, share = target / "lib", target / "share" / "extension"
    for folder in (lib, share):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for path in libraries:
        shutil.copy2(path, lib / path.name)
    for path in [work / "pg_llm.control", *work.glob("pg_llm--*.sql")]:
        shutil.copy2(path, share / path.name)
    if sys.platform == "linux":
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or "clang"
        options = ["-O2", "-shared", "-fPIC", "-o", str(lib / "user_name.so"), str(USER_NAME)]
        subprocess.run([*shlex.split(compiler), *options], check=True)


def mirror(source: Path, work: Path) -> None:
    """Copies changed files and removes deleted ones, so that make compiles only what it must."""
    skip = {".o", ".so", ".dylib", ".bc", ".d"}
    wanted = set()
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_dir() or path.suffix in skip or {"build", "results", "tmp_check"} & {*relative.parts}:
            continue
        if relative.match("pg_llm--*.sql") and relative.parent == Path("."):
            continue  # created by make
        wanted.add(relative)
        copy = work / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.stat().st_mtime_ns != path.stat().st_mtime_ns:
            shutil.copy2(path, copy)
    for path in work.glob("pg_llm--*.sql"):
        path.unlink()  # perhaps of another version; make writes them in a moment
    folders = "common kernels engine formats stories butterflies src sql test".split()
    for path in work.rglob("*"):
        relative = path.relative_to(work)
        if path.suffix in (".c", ".h", ".sql") and relative not in wanted and len(relative.parts) > 1:
            if relative.parts[0] in folders:
                path.unlink()


def _without_spaces(pg_config: Path) -> Path:
    """A copy of that PostgreSQL in a path without spaces, for make."""
    prefix = pg_config.parent.parent
    base = tempfile.gettempdir() if " " not in tempfile.gettempdir() else "/tmp"
    copy = Path(tempfile.mkdtemp(prefix="pg_llm-pg-", dir=base)) / prefix.name
    shutil.copytree(prefix, copy, symlinks=True)
    return copy / "bin" / pg_config.name
