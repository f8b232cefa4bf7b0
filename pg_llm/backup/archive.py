"""The file of a backup: a zip of stored members, with a manifest that has each member's size and SHA-256.

The first member's name identifies the file, the manifest is the last member. The zip's comment at the end is
the SHA-256 of everything before it, including the bytes between members. The file appears complete or not at
all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from psycopg.abc import Buffer

from pg_llm.errors import KitError

FORMAT = 1
MARK = "pg_llm-backup"
MANIFEST = "manifest.json"
BLOCK = 1 << 20
SEAL = 64  # bytes: a SHA-256 in hexadecimal digits


def progress(label: str, total: int | None = None):
    """A tqdm bar over bytes, shown only if they take over two seconds."""
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="B", unit_scale=True, desc=label, delay=2, leave=False)


class Writer:
    """Writes members in order; manifest is the file's description of itself."""

    def __init__(self, archive: zipfile.ZipFile):
        self.manifest: dict[str, Any] = {"format": FORMAT, "members": {}}
        self._zip = archive
        self._zip.writestr(MARK, "A database of pg_llm. Restore it with: pg-llm restore FILE DATABASE\n")

    def add(self, name: str, blocks: Iterable[Buffer], bar) -> None:
        """Adds a member with these bytes."""
        digest, size = hashlib.sha256(), 0
        with self._zip.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
            for block in blocks:
                member.write(block)
                digest.update(block)
                size += len(block)
                bar.update(len(block))
        self.manifest["members"][name] = {"size": size, "sha256": digest.hexdigest()}

    def finish(self) -> None:
        """Writes the manifest, the archive's last member."""
        self._zip.writestr(MANIFEST, json.dumps(self.manifest, indent=1))


@contextlib.contextmanager
def written(path: Path, replace: bool) -> Iterator[Writer]:
    """A new archive; no part of it remains if the block fails."""
    if path.exists() and not replace:
        raise KitError(f"{path} exists; --replace overwrites it once the new backup is complete")
    try:
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise KitError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.comment = bytes(SEAL)
                writer = Writer(archive)
                yield writer
                writer.finish()
            with progress("sealing", file.tell()) as bar:
                seal = _digest(file, bar)
            file.seek(-SEAL, os.SEEK_END)
            file.write(seal)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise KitError(
            f"{path} could not be written: {error.strerror or error}; nothing of it is left"
        ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    with contextlib.suppress(OSError):  # makes the name survive a crash, too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _digest(file, bar) -> bytes:
    """Computes the seal of a file."""
    left, digest = file.seek(0, os.SEEK_END) - SEAL, hashlib.sha256()
    file.seek(0)
    while left > 0 and (block := file.read(min(left, BLOCK))):
        digest.update(block)
        left -= len(block)
        bar.update(len(block))
    return digest.hexdigest().encode()


class Reader:
    """An archive whose bytes are verified: everything is read once before anything relies on it."""

    def __init__(self, path: Path):
        self.path = path
        with self._damage(), path.open("rb") as file, progress("checking", path.stat().st_size) as bar:
            begin = file.read(30 + len(MARK))
            if not (begin.startswith(b"PK\3\4") and begin.endswith(MARK.encode())):
                raise KitError(f"{path} is not a backup of pg-llm")
            if _digest(file, bar) != file.read():
                raise ValueError("it does not end with the SHA-256 of its bytes")
            self._zip = zipfile.ZipFile(path)
            self.manifest = json.loads(self._zip.read(MANIFEST))
            version = int(self.manifest["format"])
        if version > FORMAT:
            raise KitError(
                f"{path} was made by a newer kit (format {version}); update this one to restore it"
            )

    def verify(self) -> None:
        """Checks that every member matches the manifest, and that there is no other."""
        with self._damage(), progress("checking", self.path.stat().st_size) as bar:
            members = self.manifest["members"]
            if sorted(self._zip.namelist()) != sorted([MARK, *members, MANIFEST]):
                raise ValueError("its members are not those of its manifest")
            for name, fact in members.items():
                digest, size = hashlib.sha256(), 0
                for block in self.blocks(name):
                    digest.update(block)
                    size += len(block)
                    bar.update(len(block))
                if (size, digest.hexdigest()) != (fact["size"], fact["sha256"]):
                    raise ValueError(f"member {name} is not what was written")

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a member."""
        with self._zip.open(name) as member:
            while block := member.read(BLOCK):
                yield block

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    @contextlib.contextmanager
    def _damage(self):
        try:
            yield
        except KitError:
            raise
        except OSError as error:
            raise KitError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except Exception as error:  # zipfile and json raise many kinds of errors for invalid bytes
            words = " ".join(str(error).split()) or type(error).__name__
            raise KitError(f"{self.path} is truncated or damaged ({words}); nothing was changed") from None
