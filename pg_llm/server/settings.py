"""What the kit tells PostgreSQL: a file that postgresql.conf includes first, so the user's lines win."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psutil

from pg_llm.server import binaries

PORT = 5432  # names the socket file; no TCP port is opened by it
FILE = "pg_llm.conf"
MEGABYTE = 1 << 20


def render(found: binaries.Programs, data: Path, socket_dir: Path, port: int, listen: str) -> str:
    """The text of pg_llm.conf for a server whose files are in data."""
    memory = memory_bytes() // MEGABYTE
    values = {
        "listen_addresses": listen,
        "port": port,
        "unix_socket_directories": '"' + str(socket_dir) + '"',
        "unix_socket_permissions": "0700",
        "password_encryption": "scram-sha-256",
        "max_connections": 200,
        "shared_buffers": f"{max(16, min(256, memory // 16))}MB",
        "max_wal_size": f"{_log_size(data)}MB",
        "autovacuum_naptime": "15s",  # a training loop leaves ten megabytes of dead rows a second
        "dynamic_shared_memory_type": "posix" if _roomy_shm() else "mmap",
        "fsync": "on",
        "jit": "off",
        "lc_messages": "C",
        "extension_control_path": f"$system:{found.extension}/share",
        "dynamic_library_path": f"$libdir:{found.extension}/lib",
    }
    lines = [f"{name} = '{_escape(value)}'" for name, value in values.items()]
    return "\n".join(
        ["# Written by pg_llm at each start. Your own settings belong in postgresql.conf.", *lines, ""]
    )


def paths_of(text: str) -> list[str]:
    """The lines of pg_llm.conf that say where the extension is."""
    return re.findall(r"^(?:extension_control_path|dynamic_library_path) = .*$", text, re.M)


def with_paths(have: str, want: str) -> str:
    """have, with want's lines about where the extension is: all that a running server can be told."""
    rest = [line for line in have.splitlines() if line not in paths_of(have)]
    return "\n".join([*rest, *paths_of(want), ""])


def write(path: Path, text: str, user: binaries.RunAs) -> None:
    """Writes a file of the server's user, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    os.chown(fresh, user.uid, user.gid)
    fresh.replace(path)


def prepare(data: Path, user: binaries.RunAs) -> None:
    """Makes a new data folder include pg_llm.conf, trust its socket and ask for passwords elsewhere."""
    conf = (data / "postgresql.conf").read_text()
    # initdb's own lines for these would win over the included file.
    ours = re.compile(
        r"^(max_connections|shared_buffers|dynamic_shared_memory_type|max_wal_size|lc_messages) = ", re.M
    )
    text = f"include_if_exists = '{FILE}'\n\n" + ours.sub(r"#\1 = ", conf)
    write(data / "postgresql.conf", text, user)
    write(data / "pg_hba.conf", "local all all trust\nhost all all all scram-sha-256\n", user)


def memory_bytes() -> int:
    """The memory of the machine, or what its control group leaves of it."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):
            continue  # not this kind of control group, or "max"
    return min(limits)


def _log_size(data: Path) -> int:
    """Megabytes that the write-ahead log may take: a training writes hundreds of them a minute.

    On a small disk a tenth of what is free besides the log itself, since a log that fills the disk stops the
    server; in steps, so that the file stays the same while little changes.
    """
    log = sum(path.stat().st_size for path in (data / "pg_wal").glob("*") if path.is_file())
    room = (shutil.disk_usage(data).free + log) // MEGABYTE // 10
    return next((size for size in (2048, 1024, 512, 256) if size <= room), 128)


def _roomy_shm() -> bool:
    """Containers give /dev/shm 64 MB, less than parallel queries take; in a chroot it may be root's alone."""
    try:
        room = os.statvfs("/dev/shm")
        folder = os.stat("/dev/shm")
    except OSError:
        return False
    anybody = bool(folder.st_mode & 0o002)
    return room.f_bavail * room.f_frsize > 512 * MEGABYTE and anybody


def _escape(value) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "''")
