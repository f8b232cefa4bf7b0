"""The kit's PostgreSQL settings: a file that postgresql.conf includes first; the user's lines win."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psutil

from pg_llm.server import binaries

PORT = 5432  # names the socket file; it opens no TCP port
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
        "max_wal_size": f"{_share_of_disk(data)}MB",
        "wal_recycle": "off",  # else the log of a training run stays, for the next one, up to that size
        "temp_file_limit": f"{_share_of_disk(data)}MB",  # of a session: a GROUP BY over tensors writes them
        "autovacuum_naptime": "15s",  # a training loop produces ten megabytes of dead rows per second
        "dynamic_shared_memory_type": dynamic_shared_memory(),
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
    """The lines of pg_llm.conf with the extension's paths."""
    return re.findall(r"^(?:extension_control_path|dynamic_library_path) = .*$", text, re.M)


def with_paths(have: str, want: str) -> str:
    """have, with the extension's paths from want: all that can change in a running server."""
    rest = [line for line in have.splitlines() if line not in paths_of(have)]
    return "\n".join([*rest, *paths_of(want), ""])


def read(path: Path) -> str:
    """A file of the server, in which paths are bytes of any encoding."""
    return os.fsdecode(path.read_bytes())


def write(path: Path, text: str, user: binaries.RunAs) -> None:
    """Writes a file owned by the server's user, atomically."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(os.fsencode(text))
    fresh.chmod(0o600)
    os.chown(fresh, user.uid, user.gid)
    fresh.replace(path)


def prepare(data: Path, user: binaries.RunAs) -> None:
    """Makes a new data folder include pg_llm.conf, trust its socket and require passwords elsewhere."""
    conf = read(data / "postgresql.conf")
    # initdb's own lines for these would win over the included file.
    ours = re.compile(
        r"^(max_connections|shared_buffers|dynamic_shared_memory_type|max_wal_size|lc_messages) = ", re.M
    )
    text = f"include_if_exists = '{FILE}'\n\n" + ours.sub(r"#\1 = ", conf)
    write(data / "postgresql.conf", text, user)
    write(data / "pg_hba.conf", "local all all trust\nhost all all all scram-sha-256\n", user)


def memory_bytes() -> int:
    """The memory of the machine, or the limit of its control group if smaller."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):
            continue  # not this kind of control group, or "max"
    return min(limits)


def memory_left() -> int:
    """The bytes that this process may still take, of the machine or of its control group."""
    return min(psutil.virtual_memory().available, memory_bytes() - psutil.Process().memory_info().rss)


def _share_of_disk(data: Path) -> int:
    """The most megabytes of the write-ahead log, of which training writes hundreds per minute, and of the
    temporary files of a session.

    On a small disk, a tenth of the free space (the log itself not counted), since a full disk stops the
    server; rounded in steps, so that small changes do not alter the file.
    """
    log = sum(path.stat().st_size for path in (data / "pg_wal").glob("*") if path.is_file())
    room = (shutil.disk_usage(data).free + log) // MEGABYTE // 10
    return next((size for size in (2048, 1024, 512, 256) if size <= room), 128)


def dynamic_shared_memory() -> str:
    """posix if /dev/shm has room, else mmap: containers give it 64 MB, less than parallel queries take; a
    chroot may reserve it for root."""
    try:
        room = os.statvfs("/dev/shm")
        folder = os.stat("/dev/shm")
    except OSError:
        return "mmap"
    writable = folder.st_mode & 0o002 and not room.f_flag & os.ST_RDONLY
    return "posix" if writable and room.f_bavail * room.f_frsize > 512 * MEGABYTE else "mmap"


def _escape(value) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "''")
