"""The routes: /v1/completions, /v1/models, /healthz, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pg_llm.serve import faults, request
from pg_llm.serve.completion import Answer, encoded, event
from pg_llm.serve.database import Database
from pg_llm.serve.faults import ApiError
from pg_llm.serve.gate import ClientGoneError, Gate
from pg_llm.serve.metrics import Metrics

BODY_SECONDS = 30
CLIENT_LEFT = 499  # nginx' status for it; nobody reads it but the metrics
log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Settings:
    """What `pg-llm serve` was told. hosts: the Host headers that are answered without a key."""

    conninfo: str = field(repr=False)
    models: frozenset[str] = frozenset()
    key: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()
    running: int = 4
    queue: int = 64
    seconds: float = 300
    max_tokens: int | None = None


class App:
    """The application; `asgi` is what a server such as uvicorn runs, `stop` ends running requests."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._database = Database(settings.conninfo, settings.running, settings.seconds, settings.models)
        self._metrics = Metrics(self._database.pool.get_stats)
        self._gate = Gate(settings.running, settings.queue, self._metrics)
        self._began = int(time.time())
        self.asgi = Starlette(
            routes=[
                self._route("/v1/completions", self._completions, "POST"),
                self._route("/v1/models", self._models),
                self._route("/v1/models/{model:path}", self._model),
                self._route("/metrics", self._show_metrics),
                self._route("/healthz", self._health, open_to_all=True),
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _no_route},
        )

    def stop(self) -> None:
        """Ends every running request with an error, and its statement."""
        self._gate.stopping.set()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with self._database:
            yield
            self.stop()
            await self._gate.drained()

    def _route(self, path: str, handler: Handler, method: str = "GET", open_to_all: bool = False) -> Route:
        return Route(path, Endpoint(self._metrics, path, handler, None if open_to_all else self._admit),
                     methods=[method])  # fmt: skip

    def _admit(self, got: Request) -> None:
        """Errors: ApiError without the key; without one at all, for a name that is not this machine's."""
        key = self._settings.key
        if key is None:
            # A web page whose name leads to this machine must not read what is served here.
            host = re.sub(r":\d*$", "", got.headers.get("host", "")).strip("[]").lower()
            if host not in self._settings.hosts:
                raise ApiError(403, "without an API key only this machine's own names are answered", "host")
            return
        scheme, _, given = got.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), key.encode())
        if scheme.lower() != "bearer" or not same:
            said = "wrong API key" if given else "an API key is needed: Authorization: Bearer KEY"
            raise ApiError(401, said, "invalid_api_key")

    # -- the routes ----

    async def _completions(self, got: Request, sender: Sender) -> None:
        kind = got.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # A web page can send anything else to this machine without being asked.
            raise ApiError(
                415, f"Content-Type must be application/json, not {kind[:100] or 'missing'}", "content_type"
            )
        asked = request.parse(await _body(got), self._settings.max_tokens)
        answer = Answer(self._database, self._metrics, asked)
        work = self._stream(answer, sender) if asked.stream else self._whole(answer, sender)
        await self._gate.supervise(work, got.receive, self._settings.seconds)

    async def _whole(self, answer: Answer, sender: Sender) -> None:
        async with self._gate.slot():
            body = await answer.whole()
        await sender.answer(_json(body))

    async def _stream(self, answer: Answer, sender: Sender) -> None:
        async with self._gate.slot(), contextlib.aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                await sender.piece(piece)
        await sender.end()

    async def _models(self, _got: Request, sender: Sender) -> None:
        models = [self._as_model(name) for name in await self._database.listed()]
        await sender.answer(_json({"object": "list", "data": models}))

    async def _model(self, got: Request, sender: Sender) -> None:
        name = got.path_params["model"]
        if name not in await self._database.listed():
            raise ApiError(404, f'there is no model "{name[:200]}"', "model_not_found", "model")
        await sender.answer(_json(self._as_model(name)))

    def _as_model(self, name: str) -> dict:
        return {"id": name, "object": "model", "created": self._began, "owned_by": "pg_llm"}

    async def _health(self, _got: Request, sender: Sender) -> None:
        await self._database.alive()
        await sender.answer(_json({"status": "ok"}))

    async def _show_metrics(self, _got: Request, sender: Sender) -> None:
        await sender.answer(Response(self._metrics.page(), media_type=CONTENT_TYPE_LATEST))


class Sender:
    """Sends a response, whole or as a stream of events, and remembers its status."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self._scope, self._receive, self._send = scope, receive, send
        self.status: int | None = None

    async def answer(self, response: Response) -> None:
        """Sends a whole response."""
        self.status = response.status_code
        await response(self._scope, self._receive, self._send)

    async def piece(self, events: bytes) -> None:
        """Sends a piece of a stream, which the first one begins."""
        if self.status is None:
            self.status = 200
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self) -> None:
        """Ends a stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


Handler = Callable[[Request, Sender], Awaitable[None]]


class Endpoint:
    """A route's handler as an ASGI application that answers every error in OpenAI's format."""

    def __init__(
        self, metrics: Metrics, path: str, handler: Handler, admit: Callable[[Request], None] | None
    ):
        self._metrics, self._path, self._handler, self._admit = metrics, path, handler, admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, got, sender = time.perf_counter(), Request(scope, receive), Sender(scope, receive, send)
        status = CLIENT_LEFT
        try:
            if self._admit:
                self._admit(got)
            await self._handler(got, sender)
            status = sender.status or 500
        except (ClientGoneError, ClientDisconnect):
            pass
        except Exception as error:
            refused = _refusal(error)
            status = refused.status
            if sender.status is None:
                await sender.answer(_json(refused.body(), status, refused.headers))
            else:
                await sender.piece(event(refused.body()))
                await sender.end()
        finally:
            self._metrics.requests.labels(self._path, status).inc()
            self._metrics.seconds.labels(self._path).observe(time.perf_counter() - began)


def _refusal(error: Exception) -> ApiError:
    """What the client is told; the log gets the traceback of what nobody expected."""
    if isinstance(error, ApiError):
        return error
    refused = faults.of_database(error)
    if refused.status == 500:
        log.error("a request failed", exc_info=error)
    return refused


def _json(body: dict, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encoded(body), status, headers, "application/json")


async def _body(got: Request) -> bytes:
    """The request's body. Errors: ApiError if it is too large, or does not arrive."""
    body = bytearray()

    async def read() -> None:
        async for piece in got.stream():
            body.extend(piece)
            if len(body) > request.BODY_BYTES:
                raise ApiError(413, f"the body is larger than {request.BODY_BYTES} bytes", "too_large")

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body did not arrive in {BODY_SECONDS} seconds", "timeout") from None
    return bytes(body)


async def _no_route(got: Request, error: Exception) -> Response:
    """404 and 405 of Starlette's router."""
    assert isinstance(error, HTTPException)
    said = (
        f"{got.method} {got.url.path[:200]}: {error.detail}; this server has /v1/completions and /v1/models"
    )
    return _json(ApiError(error.status_code, said, "unknown_url").body(), error.status_code)
