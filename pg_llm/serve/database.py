"""The database behind the server: a pool of sessions that read only, and the statements they run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from pg_llm.errors import NoExtensionError
from pg_llm.serve.faults import ApiError
from pg_llm.serve.request import Completion, Prompt

# Beyond those of the requests that run: /healthz and /v1/models are answered while all of these are busy.
SPARE = 2
WAIT_SECONDS = 5  # for a session, then the database counts as unreachable
# Of an attempt to reconnect. Each later request that needs a session then makes another one at once; in the
# pool's own five minutes the pauses between attempts would double.
RECONNECT_SECONDS = 1.0


class Session(psycopg.AsyncConnection):
    """A connection that knows the schema of the extension."""

    schema: sql.Identifier


@dataclass(frozen=True)
class Row:
    """A token of a generation; text: what it adds; logprob under the model, before temperature and limits."""

    step: int
    token_id: int
    text: str
    is_complete: bool
    logprob: float
    token: bytes | None  # what the token stands for, if asked for
    whole: str | None  # the whole text, prompt included, in the last row


@dataclass(frozen=True)
class Encoded:
    """A prompt as tokens, as the text that they stand for, and the model's end token."""

    ids: list[int]
    text: str
    end: int


class Database:
    """The pool; use as an async context manager. seconds: the longest that a statement may run."""

    def __init__(self, conninfo: str, running: int, seconds: float, models: frozenset[str]):
        given = conninfo_to_dict(conninfo)
        more: dict[str, str | int] = {"application_name": "pg-llm serve", "connect_timeout": 3}
        more = {name: value for name, value in more.items() if name not in given}
        self.models, self._seconds = models, seconds
        self.pool = AsyncConnectionPool(
            make_conninfo(conninfo, **more),
            connection_class=Session,
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=running + SPARE,
            open=False,
            configure=self._configure,
            check=AsyncConnectionPool.check_connection,
            timeout=WAIT_SECONDS,
            reconnect_timeout=RECONNECT_SECONDS,
            name="pg-llm serve",
        )

    async def _configure(self, session: Session) -> None:
        query = (
            "SELECT n.nspname FROM pg_catalog.pg_extension e "
            "JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_llm'"
        )
        found = await (await session.execute(query)).fetchone()
        if found is None:
            raise NoExtensionError
        session.schema = sql.Identifier(found[0])
        # The backstop for a request whose cancellation does not arrive.
        settings = {
            "statement_timeout": str(int(self._seconds * 1000)),
            "default_transaction_read_only": "on",
            "client_encoding": "UTF8",
            "search_path": "pg_catalog, pg_temp",
        }
        for name, value in settings.items():
            await session.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))

    async def __aenter__(self) -> Database:
        await self.pool.open()
        return self

    async def __aexit__(self, *error) -> None:
        await self.pool.close()

    async def alive(self) -> None:
        """Raises psycopg.Error unless the database answers."""
        async with self.pool.connection() as session:
            await session.execute("SELECT 1")

    async def listed(self) -> list[str]:
        """The models that can be asked for: of those allowed, the ones that have weights and give logits."""
        async with self.pool.connection() as session:
            query = (
                "SELECT c.model FROM {schema}.llm_model_config c "
                "WHERE EXISTS (SELECT FROM {schema}.llm_graph g "
                "WHERE g.model = c.model AND g.name = 'logits') "
                "AND EXISTS (SELECT FROM {schema}.llm_param p WHERE p.model = c.model) ORDER BY c.model"
            )
            cursor = await session.execute(sql.SQL(query).format(schema=session.schema))
            found = [model for (model,) in await cursor.fetchall()]
        return [model for model in found if not self.models or model in self.models]

    @contextlib.asynccontextmanager
    async def session(self, model: str) -> AsyncIterator[Generator]:
        """A session for one request. Errors: ApiError for a model that is not there, or not allowed."""
        missing = ApiError(404, f'there is no model "{model[:200]}"; GET /v1/models lists them',
                           "model_not_found", "model")  # fmt: skip
        if self.models and model not in self.models:
            raise missing
        async with self.pool.connection() as session:
            query = (
                "SELECT coalesce((options ->> 'eos_token_id')::int, 50256) FROM {}.llm_model_config "
                "WHERE model = %s"
            )
            cursor = await session.execute(sql.SQL(query).format(session.schema), (model,))
            found = await cursor.fetchone()
            if found is None:
                raise missing
            yield Generator(session, model, found[0])


def token_text(token: bytes) -> str:
    """A token as OpenAI shows it: its text, or the bytes of a part of a character."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


class Generator:
    """What one request asks of its session; end: the model's end token."""

    def __init__(self, session: Session, model: str, end: int):
        self._session, self._model, self._end = session, model, end

    async def encode(self, prompt: Prompt, with_text: bool) -> Encoded:
        """The tokens of a prompt, and their text if it is asked for. Errors: psycopg.Error."""
        if isinstance(prompt, str):
            query = "SELECT {schema}.llm_encode(%(prompt)s::text, %(model)s)"
            return Encoded((await self._rows(query, prompt=prompt))[0][0], prompt, self._end)
        return Encoded(prompt, await self.decode(prompt) if with_text else "", self._end)

    def rows(self, asked: Completion, prompt: Prompt, sample: int) -> AsyncGenerator[Row, None]:
        """The tokens of one continuation as they are made; closing the generator cancels the rest."""
        kind = "text" if isinstance(prompt, str) else "int[]"
        token = "NULL" if asked.logprobs is None else "{schema}.llm_decode_bytes(ARRAY[token_id], %(model)s)"
        query = (
            f"SELECT step, token_id, token, is_complete, logprob, {token}, "
            "CASE WHEN is_complete THEN text END "
            f"FROM {{schema}}.llm_generate_stream(prompt => %(prompt)s::{kind}, "
            "max_tokens => %(max_tokens)s, temperature => %(temperature)s, "
            "topk => %(topk)s::int, topp => %(topp)s, model => %(model)s, "
            "seed => %(seed)s::bigint, stop => %(stop)s::text[], min_p => %(min_p)s, "
            "repetition_penalty => %(repetition_penalty)s, no_repeat_ngram => %(no_repeat_ngram)s)"
        )
        arguments = {
            "prompt": prompt,
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "topk": asked.top_k or None,
            "topp": asked.top_p,
            "seed": None if asked.seed is None else asked.seed + sample,
            "stop": asked.stop or None,
            "min_p": asked.min_p,
            "repetition_penalty": asked.repetition_penalty,
            "no_repeat_ngram": asked.no_repeat_ngram,
        }
        return self._stream(query, arguments)

    async def _stream(self, query: str, arguments: dict[str, Any]) -> AsyncGenerator[Row, None]:
        async with self._session.cursor() as cursor:
            rows = cursor.stream(self._named(query), {**arguments, "model": self._model})
            async with contextlib.aclosing(rows):  # type: ignore[type-var]
                async for row in rows:
                    yield Row(*row)

    async def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        return (await self._rows("SELECT {schema}.llm_decode(%(ids)s::int[], %(model)s)", ids=ids))[0][0]

    async def alternatives(self, ids: list[int], first: int, k: int) -> list[dict[str, float]]:
        """The k most probable tokens, with their log probabilities, at each position from `first` on."""
        query = (
            "WITH l AS MATERIALIZED (SELECT {schema}.pg_llm_log_softmax({schema}.slice("
            "{schema}.llm_logits(%(ids)s::int[], %(model)s), %(row)s)) AS x), "
            "t AS MATERIALIZED (SELECT {schema}.topk(x, %(k)s)::real[] AS highest, "
            "{schema}.topk(x, %(k)s, 'indices')::int[] AS ids FROM l) "
            "SELECT p.place, {schema}.llm_decode_bytes(ARRAY[p.id], %(model)s), p.logprob "
            "FROM t, unnest(t.highest, t.ids) WITH ORDINALITY AS p(logprob, id, place) ORDER BY p.place"
        )
        rows = await self._rows(query, ids=ids[:-1], row=first - 1, k=k)
        found: list[dict[str, float]] = [{} for _ in range(len(ids) - first)]
        for place, token, value in rows:
            found[(place - 1) // k].setdefault(token_text(token), value)
        return found

    async def _rows(self, query: str, **arguments: Any) -> list[tuple]:
        cursor = await self._session.execute(self._named(query), {**arguments, "model": self._model})
        return await cursor.fetchall()

    def _named(self, query: str) -> sql.Composed:
        return sql.SQL(query).format(schema=self._session.schema)  # type: ignore[arg-type]
