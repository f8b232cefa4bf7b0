"""Answers a request: OpenAI's objects from the rows of generations, at the end or piece by piece."""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pg_llm.serve.database import Database, Encoded, Generator, Row, token_text
from pg_llm.serve.metrics import Metrics
from pg_llm.serve.request import Completion, Prompt


@dataclass
class Choice:
    """One continuation as far as it has come."""

    index: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: str | None = None
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    alternatives: list[dict[str, float]] | None = None

    def add(self, row: Row) -> None:
        """Appends a token."""
        self.offsets.append(len(self.text))
        self.text += row.text
        self.ids.append(row.token_id)
        self.tokens.append(token_text(row.token or b""))
        self.logprobs.append(row.logprob if math.isfinite(row.logprob) else None)

    def body(self, text: str, with_logprobs: bool, first: int = 0) -> dict[str, Any]:
        """OpenAI's choice with this text, and the log probabilities of the tokens from `first` on."""
        logprobs = with_logprobs and {
            "tokens": self.tokens[first:],
            "token_logprobs": self.logprobs[first:],
            "top_logprobs": self.alternatives,
            "text_offset": self.offsets[first:],
        }
        return {
            "index": self.index,
            "text": text,
            "logprobs": logprobs or None,
            "finish_reason": self.finish,
        }


class Answer:
    """The answer to one request, which counts its tokens."""

    def __init__(self, database: Database, metrics: Metrics, asked: Completion):
        self._database, self._metrics, self.asked = database, metrics, asked
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self._began = time.perf_counter()
        self._prompt_tokens = self._completion_tokens = 0

    async def whole(self) -> dict[str, Any]:
        """The answer when it is complete. Errors: ApiError, psycopg.Error."""
        choices: list[Choice] = []
        async with self._database.session(self.asked.model) as generator:
            async for prompt, encoded, choice in self._choices(generator):
                async with contextlib.aclosing(self._rows(generator, prompt, encoded, choice)) as rows:
                    async for _ in rows:
                        pass
                if self.asked.logprobs and choice.ids:
                    ids = encoded.ids or [encoded.end]
                    choice.alternatives = await generator.alternatives(
                        ids + choice.ids, len(ids), self.asked.logprobs
                    )
                choices.append(choice)
        with_logprobs = self.asked.logprobs is not None
        return self._body([c.body(c.text, with_logprobs) for c in choices]) | {"usage": self._usage()}

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events. Errors: as for whole, before the first piece or later."""
        with_logprobs = self.asked.logprobs is not None
        async with self._database.session(self.asked.model) as generator:
            async for prompt, encoded, choice in self._choices(generator):
                if choice.text:  # the echo
                    yield self._event(choice.body(choice.text, False))
                async with contextlib.aclosing(self._rows(generator, prompt, encoded, choice)) as rows:
                    async for row in rows:
                        yield self._event(choice.body(row.text, with_logprobs, len(choice.ids) - 1))
                if not choice.ids:
                    yield self._event(choice.body("", False))
        if self.asked.include_usage:
            yield event(self._body([]) | {"usage": self._usage()})
        yield b"data: [DONE]\n\n"

    async def _choices(self, generator: Generator) -> AsyncGenerator[tuple[Prompt, Encoded, Choice], None]:
        """Every prompt with every sample's choice, in OpenAI's order."""
        for number, prompt in enumerate(self.asked.prompts):
            encoded = await generator.encode(prompt, self.asked.echo)
            self._prompt_tokens += len(encoded.ids)
            self._metrics.prompt_tokens.labels(self.asked.model).inc(len(encoded.ids))
            for sample in range(self.asked.n):
                choice = Choice(number * self.asked.n + sample)
                choice.text = encoded.text if self.asked.echo else ""
                yield prompt, encoded, choice

    async def _rows(
        self, generator: Generator, prompt: Prompt, encoded: Encoded, choice: Choice
    ) -> AsyncGenerator[Row, None]:
        """The rows of a choice, each added to it; the last one sets why it ended."""
        count = self._metrics.completion_tokens.labels(self.asked.model)
        sample = choice.index % self.asked.n
        if self.asked.max_tokens == 0:
            choice.finish = "length"
        async with contextlib.aclosing(generator.rows(self.asked, prompt, sample)) as rows:
            async for row in rows:
                if self._completion_tokens == 0:
                    self._metrics.first_token.observe(time.perf_counter() - self._began)
                self._completion_tokens += 1
                count.inc()
                choice.add(row)
                if not row.is_complete:
                    yield row
        if choice.ids:
            choice.finish = await self._finish(generator, encoded, choice, row)
            yield row

    async def _finish(self, generator: Generator, encoded: Encoded, choice: Choice, last: Row) -> str:
        """stop or length; for a last token that reaches max_tokens, whether the text was cut tells."""
        if len(choice.ids) < self.asked.max_tokens or last.token_id == encoded.end:
            return "stop"
        if not self.asked.stop:
            return "length"
        try:
            every = await generator.decode(encoded.ids + choice.ids)
        except psycopg.DataError:  # a token of the model that its tokenizer does not have
            return "length"
        return "length" if every == last.whole else "stop"

    def _usage(self) -> dict[str, int]:
        prompt, made = self._prompt_tokens, self._completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def _body(self, choices: list[dict]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self.asked.model,
            "choices": choices,
        }

    def _event(self, choice: dict) -> bytes:
        body = self._body([choice])
        return event(body | {"usage": None} if self.asked.include_usage else body)


def event(body: dict) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(body) + b"\n\n"


def encoded(body: dict) -> bytes:
    """JSON, which has no NaN."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
