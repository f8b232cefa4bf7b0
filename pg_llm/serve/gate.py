"""How many completions run at a time, and how a running one ends early."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine

from starlette.types import Receive

from pg_llm.errors import PgLlmError
from pg_llm.serve.faults import ApiError
from pg_llm.serve.metrics import Metrics


class ClientGoneError(PgLlmError):
    """The client closed its connection."""


class Gate:
    """Lets `running` completions run and `queue` wait; more are refused."""

    def __init__(self, running: int, queue: int, metrics: Metrics):
        self._slots, self._queue, self._metrics = asyncio.Semaphore(running), queue, metrics
        self._waiting = 0
        self._tasks: set[asyncio.Task] = set()
        self.stopping = asyncio.Event()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a turn. Errors: ApiError 429 if the queue is full."""
        if self._slots.locked() and self._waiting >= self._queue:
            raise ApiError(429, "too many requests at once: the queue is full; try again later", "queue_full")
        self._waiting += 1
        self._metrics.queued.set(self._waiting)
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
            self._metrics.queued.set(self._waiting)
        try:
            with self._metrics.running.track_inprogress():
                yield
        finally:
            self._slots.release()

    async def supervise(self, work: Coroutine[None, None, None], receive: Receive, seconds: float) -> None:
        """Runs work; cancels it, and with it its statement, if the client leaves or it takes too long.

        Errors: those of work; ClientGoneError, ApiError 504, or 503 when the server stops.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        gone, stops = asyncio.create_task(_gone(receive)), asyncio.create_task(self.stopping.wait())
        try:
            every = {task, gone, stops}
            done, _ = await asyncio.wait(every, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                return task.result()
            if gone in done:
                raise ClientGoneError
            if stops in done:
                raise ApiError(503, "the server stops; try again later", "stopping")
            raise ApiError(
                504, f"the request took longer than the {seconds:g} seconds that it may", "timeout"
            )
        finally:
            for each in (task, gone, stops):
                each.cancel()
            await asyncio.wait({task, gone, stops})
            if not task.cancelled():
                task.exception()  # seen; asyncio would report it otherwise

    async def drained(self) -> None:
        """Waits until no cancelled work has a statement to cancel any more."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed the connection; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
