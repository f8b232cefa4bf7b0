"""Listens and serves until a signal ends it: what `pg-llm serve` runs."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from pg_llm.errors import KitError
from pg_llm.serve.app import App, Settings

LAST_SECONDS = 10  # for what is left after `grace`: cancelling statements, closing sessions


def api_key(given: str | None, file: str | None) -> str | None:
    """The key of --api-key, --api-key-file or PG_LLM_API_KEY. Errors: KitError, without the key."""
    if given is not None and file is not None:
        raise KitError("--api-key and --api-key-file both give a key; give one of them")
    key = given if given is not None else os.environ.get("PG_LLM_API_KEY")
    if file is not None:
        try:
            key = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise KitError(f"--api-key-file {file} cannot be read: {why}") from None
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise KitError("the API key is empty, or has characters other than ASCII letters, digits and signs")
    return key


def listening(host: str, port: int, with_key: bool) -> list[socket.socket]:
    """Sockets on every address of host. Errors: KitError, also for an address of others without a key."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise KitError(f"--host {host}: no address of this machine ({error})") from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for _, address in addresses:
        if not with_key and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise KitError(
                f"--host {host} is {address[0]}, which other machines reach: that needs an API key "
                "(PG_LLM_API_KEY, --api-key-file or --api-key); without one, only loopback is listened on"
            )
    sockets: list[socket.socket] = []
    for family, address in addresses:
        chosen = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
        try:
            sockets.append(socket.create_server(chosen, family=family, backlog=256))
        except OSError as error:
            if family == socket.AF_INET6 and len(addresses) > 1:
                continue  # a machine without IPv6 that still names ::1
            for each in sockets:
                each.close()
            raise KitError(f"cannot listen on {address[0]} port {port}: {error.strerror}") from None
    return sockets


class _Server(uvicorn.Server):
    """uvicorn, but a signal that ends it is its normal end: exit code 0, running requests within `grace`."""

    def __init__(self, config: uvicorn.Config, ends: Callable[[], None], grace: float):
        super().__init__(config)
        self._ends, self._grace = ends, grace

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            loop.call_later(0 if self.should_exit else self._grace, self._ends)
            self.handle_exit(number, None)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def serve(
    settings: Settings, sockets: list[socket.socket], grace: float, say: Callable[[str], object]
) -> None:
    """Serves on the sockets until SIGINT or SIGTERM. Errors: KitError if it cannot start."""
    app = App(settings)
    config = uvicorn.Config(
        app.asgi, log_level="warning", access_log=False, lifespan="on", server_header=False,
        timeout_graceful_shutdown=int(grace + LAST_SECONDS), timeout_keep_alive=30,
    )  # fmt: skip
    host, port = sockets[0].getsockname()[:2]
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1 serves; Ctrl-C ends it")
    server = _Server(config, app.stop, grace)
    asyncio.run(server.serve(sockets))
    if not server.started:
        raise KitError("the server did not start; the lines above say why")
