"""Entry point of the server image: PostgreSQL in the foreground, on TCP, with a ready database."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
    port = int(os.environ.get("PG_LLM_PORT") or settings.PORT)
    print(f"pg_llm: database {name}, user postgres, port {port}", flush=True)
    server.become(port, "*")


def wanted_password() -> str:
    """POSTGRES_PASSWORD, or the content of the file POSTGRES_PASSWORD_FILE."""
    file = os.environ.get("POSTGRES_PASSWORD_FILE")
    password = Path(file).read_text().rstrip("\n") if file else os.environ.get("POSTGRES_PASSWORD")
    if not password:
        raise KitError("set POSTGRES_PASSWORD: docker run -e POSTGRES_PASSWORD=... -p 5432:5432 pg_llm")
    return password


if __name__ == "__main__":
    try:
        main()
    except (KitError, OSError) as error:
        sys.exit(f"pg_llm: {error}")
