"""Entry point of the server image: PostgreSQL in the foreground, on TCP, with a ready database.

With the argument `healthy` it tells whether that server answers, by its exit code.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from psycopg import pq

from pg_llm.errors import KitError
from pg_llm.server import database, settings
from pg_llm.server.server import Server


def main() -> None:
    """Prepares the data folder over the private socket, then replaces this process by the server."""
    password = wanted_password()
    name = os.environ.get("POSTGRES_DB") or "postgres"
    server = Server()
    server.set_password(server.start(), password)
    database.connect(name).close()
    database.create_template()
    server.stop()
    port = wanted_port()
    print(f"pg_llm: database {name}, user postgres, port {port}", flush=True)
    server.become(port, "*")


def wanted_port() -> int:
    """PG_LLM_PORT, or 5432."""
    return int(os.environ.get("PG_LLM_PORT") or settings.PORT)


def healthy() -> bool:
    """True if the server accepts connections over TCP; for the image's HEALTHCHECK."""
    return pq.PGconn.ping(f"host=localhost port={wanted_port()}".encode()) == pq.Ping.OK


def wanted_password() -> str:
    """POSTGRES_PASSWORD, or the content of the file POSTGRES_PASSWORD_FILE."""
    file = os.environ.get("POSTGRES_PASSWORD_FILE")
    try:
        password = Path(file).read_text().rstrip("\n") if file else os.environ.get("POSTGRES_PASSWORD")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"POSTGRES_PASSWORD_FILE, {file}, cannot be read ({error})") from None
    if file and not password:
        raise KitError(f"POSTGRES_PASSWORD_FILE, {file}, is empty")
    if not password:
        raise KitError("set POSTGRES_PASSWORD: docker run -e POSTGRES_PASSWORD=... -p 5432:5432 pg_llm")
    return password


if __name__ == "__main__":
    if sys.argv[1:] == ["healthy"]:
        sys.exit(not healthy())
    try:
        main()
    except (KitError, OSError) as error:
        sys.exit(f"pg_llm: {error}")
