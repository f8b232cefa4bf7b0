"""Generation from Python over any psycopg 3 connection, autocommit or not."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import cast

import psycopg
from psycopg import pq, sql
from psycopg.rows import class_row, dict_row, tuple_row

from pg_llm import catalog
from pg_llm.notebook import frames, session, statement


@dataclass(frozen=True)
class StreamEvent:
    """One generated token: the text that it added, and the whole text so far; is_complete marks the last one.

    token is empty for the end token, and for part of a character, which appears when it is complete: joined,
    the tokens are the continuation.
    logprob: the token's log probability under the model, before temperature, penalties and limits.
    token_ids: the tokens so far, those of the prompt included.
    """

    step: int
    token_id: int
    token: str
    text: str
    is_complete: bool
    logprob: float
    token_ids: list[int]


@dataclass(frozen=True)
class BeamResult:
    """One result of a beam search; score is its log probability, token_ids are prompt and continuation."""

    rank: int
    score: float
    text: str
    token_ids: list[int]


@dataclass(frozen=True)
class Sample:
    """One text of PGLLMClient.generate_batch; prompt and sample count from 1.

    logprob: the continuation's log probability under the model. sample_seed: the seed with which generate
    gives this text.
    """

    prompt: int
    sample: int
    text: str
    token_ids: list[int]
    logprob: float
    sample_seed: int


Event, Beam = StreamEvent, BeamResult  # their names before pg_gpt2's


class PGLLMClient:
    """Generates text with a model over a psycopg 3 connection, by default the notebook's.

    model: the one that methods use unless told otherwise; None: the database's default model.

    >>> PGLLMClient(conn, model="my_gpt").generate("Hello", max_tokens=20, seed=1)  # doctest: +SKIP
    """

    def __init__(self, conn: psycopg.Connection | None = None, model: str | None = None):
        if conn is not None and not isinstance(conn, psycopg.Connection):
            raise TypeError(f"PGLLMClient takes a psycopg 3 Connection, not {type(conn).__name__}")
        self._conn = conn
        self.model = model

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = None,
        *,
        temperature: float | None = 1.0,
        topk: int | None = 50,
        topp: float | None = 0.95,
        eos: int | None = 50256,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        repetition_penalty: float | None = 1.0,
        min_p: float | None = 0.0,
        no_repeat_ngram: int | None = 0,
        special: bool = False,
        model: str | None = None,
    ) -> str:
        """The prompt and its continuation, sampled token by token.

        max_tokens: of the continuation; None: 64, or what fits the model.
        temperature: divides the logits; 0 is greedy.
        topk, topp: sampled are the k most probable tokens, and of these the most probable ones that together
            have the probability topp; None: no limit.
        eos: the token that ends the text; 50256 stands for the model's own, None for no token.
        seed: of the random numbers; None: another one each time.
        stop: a text or several; the continuation ends before the first of them.
        repetition_penalty: above 1 makes tokens that have occurred, in the prompt too, less likely.
        min_p: of the tokens that are left, those with less than this fraction of the most probable one's
            probability are dropped.
        no_repeat_ngram: no sequence of this many tokens occurs twice; 0: any may.
        special: the text of a special token in the prompt becomes that token. A prompt may be token ids, too.
        """
        with self._cursor() as cursor:
            query, arguments = self._call(
                "SELECT {}", "llm_generate", model, prompt=prompt, max_tokens=max_tokens,
                temperature=temperature, topk=topk, topp=topp, eos=eos, seed=seed, stop=_texts(stop),
                repetition_penalty=repetition_penalty, min_p=min_p, no_repeat_ngram=no_repeat_ngram,
                special=special,
            )  # fmt: skip
            return cursor.execute(query, arguments).fetchall()[0][0]

    def generate_batch(
        self,
        prompts: str | Sequence[str],
        max_tokens: int | None = None,
        *,
        n: int = 1,
        temperature: float | None = 1.0,
        topk: int | None = 50,
        topp: float | None = 0.95,
        eos: int | None = 50256,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        repetition_penalty: float | None = 1.0,
        min_p: float | None = 0.0,
        no_repeat_ngram: int | None = 0,
        special: bool = False,
        model: str | None = None,
    ) -> list[Sample]:
        """n continuations of each prompt, computed together, which is faster than one by one.

        Each text is the one that generate gives with its sample_seed: seed for the first sample of a prompt,
        seed + 1 for the next; random if seed is None. Other arguments as for generate.
        """
        query, arguments = self._call(
            "SELECT * FROM {} ORDER BY prompt, sample", "llm_generate_batch", model,
            prompts=_texts(prompts), max_tokens=max_tokens, temperature=temperature, topk=topk, topp=topp,
            eos=eos, seed=seed, stop=_texts(stop), repetition_penalty=repetition_penalty, min_p=min_p,
            no_repeat_ngram=no_repeat_ngram, n=n, special=special,
        )  # fmt: skip
        with self._cursor(class_row(Sample)) as cursor:
            return cursor.execute(query, arguments).fetchall()

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = None,
        *,
        temperature: float | None = 1.0,
        topk: int | None = 50,
        topp: float | None = 0.95,
        eos: int | None = 50256,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        repetition_penalty: float | None = 1.0,
        min_p: float | None = 0.0,
        no_repeat_ngram: int | None = 0,
        special: bool = False,
        model: str | None = None,
    ) -> Generator[StreamEvent, None, None]:
        """Yields generate's tokens one by one, each as soon as the server has sampled it.

        Closing the generator, or leaving the loop over it, cancels the rest. Arguments as for generate.
        """
        encoded = (
            "{schema}.llm_encode(%(prompt)s, coalesce(%(model)s, {schema}.llm_default_model()), %(special)s)"
        )
        ids = encoded if isinstance(prompt, str) else "%(prompt)s::int[]"
        query, arguments = self._call(
            f"SELECT s.*, CASE step WHEN 1 THEN {ids} END AS prompt_ids FROM {{}} AS s",
            "llm_generate_stream", model,
            prompt=prompt, max_tokens=max_tokens, temperature=temperature, topk=topk, topp=topp, eos=eos,
            seed=seed, stop=_texts(stop), repetition_penalty=repetition_penalty, min_p=min_p,
            no_repeat_ngram=no_repeat_ngram, special=special,
        )  # fmt: skip
        return self._events(query, arguments)

    def beam_search(
        self,
        prompt: str | Sequence[int],
        beam_width: int = 4,
        *,
        max_tokens: int | None = None,
        temperature: float | None = 1.0,
        eos_token: int | None = 50256,
        special: bool = False,
        model: str | None = None,
    ) -> list[BeamResult]:
        """The most probable continuations that a beam search of this width finds, best first.

        temperature: divides the logits whose log probabilities the scores add up.
        eos_token: the token that ends a text; 50256 stands for the model's own, None for no token.
        """
        query, arguments = self._call(
            "SELECT * FROM {} ORDER BY rank", "llm_beam_search", model,
            prompt=prompt, beam_width=beam_width, max_tokens=max_tokens, temperature=temperature,
            eos=eos_token, special=special,
        )  # fmt: skip
        with self._cursor(class_row(BeamResult)) as cursor:
            return cursor.execute(query, arguments).fetchall()

    def next_tokens(
        self,
        prompt: str | Sequence[int],
        k: int | None = 10,
        *,
        special: bool = False,
        model: str | None = None,
    ) -> frames.Frame:
        """The k most probable next tokens, one per row; k None: the whole vocabulary.

        Columns rank, token_id, token, probability.
        """
        query, arguments = self._call(
            "SELECT * FROM {}", "llm_next_tokens", model, prompt=prompt, k=k, special=special
        )
        return self._frame(query, arguments)

    def graph(self, model: str | None = None) -> frames.Frame:
        """The model's computation graph, one row per node. Columns name, op, inputs, attrs, shape."""
        query = (
            "SELECT name, op, inputs, attrs, shape FROM {0}.llm_graph "
            "WHERE model = coalesce(%(model)s, {0}.llm_default_model()) ORDER BY id"
        )
        return frames.view(query, self._conn, model=model or self.model)

    def params(self, model: str | None = None) -> frames.Frame:
        """pg_llm.params for this client's model and connection."""
        return frames.params(model or self.model, conn=self._conn)

    def train_log(self, model: str | None = None, run: int | None = None) -> frames.Frame:
        """pg_llm.train_log for this client's model and connection."""
        return frames.train_log(model or self.model, run, conn=self._conn)

    def gradients(self, model: str | None = None, run: int | None = None) -> frames.Frame:
        """pg_llm.gradients for this client's model and connection."""
        return frames.gradients(model or self.model, run, conn=self._conn)

    def tape(self, run: int | None = None) -> frames.Frame:
        """pg_llm.tape over this client's connection."""
        return frames.tape(run, conn=self._conn)

    def attention(
        self, run: int | None = None, layer: int | None = None, head: int | None = None
    ) -> frames.Frame:
        """pg_llm.attention over this client's connection."""
        return frames.attention(run, layer, head, conn=self._conn)

    def activations(self, run: int | None = None) -> frames.Frame:
        """pg_llm.activations over this client's connection."""
        return frames.activations(run, conn=self._conn)

    # -- the parts ----

    @contextlib.contextmanager
    def _cursor(self, row_factory=tuple_row):
        with session.connection(self._conn) as conn, conn.cursor(row_factory=row_factory) as cursor:
            yield cursor

    def _events(self, query: sql.Composed, arguments: dict) -> Generator[StreamEvent, None, None]:
        with session.connection(self._conn) as conn, _undone_if_left(conn):
            session.streaming(conn, +1)
            tokens: list[int] = []
            try:
                with conn.cursor(row_factory=dict_row) as cursor:
                    rows = cast("Generator[dict, None, None]", cursor.stream(query, arguments))
                    with contextlib.closing(rows):
                        for row in rows:
                            tokens = [*(row.pop("prompt_ids") or tokens), row["token_id"]]
                            yield StreamEvent(**row, token_ids=tokens)
            finally:
                session.streaming(conn, -1)

    def _frame(self, query: sql.Composed, arguments: dict) -> frames.Frame:
        with session.connection(self._conn) as conn:
            found = statement.run(conn, query, arguments, binary=True)
        assert found is not None
        return frames.frame(found)

    def _call(
        self, query: str, function: str, model: str | None, **arguments: object
    ) -> tuple[sql.Composed, dict[str, object]]:
        """A query with a function call in place of {}, and its arguments."""
        arguments["model"] = model or self.model
        ids = not isinstance(arguments.get("prompt", ""), str)
        if ids:
            # not 1.5, which the cast to int[] would round
            arguments["prompt"] = [index(id) for id in cast("Sequence[int]", arguments["prompt"])]
            del arguments["special"]  # which is about a text
        named = sql.SQL(", ").join(
            sql.SQL("{} => {}::int[]" if ids and name == "prompt" else "{} => {}").format(
                sql.Identifier(name), sql.Placeholder(name)
            )
            for name in arguments
            if name != "model" or arguments[name]
        )
        with session.connection(self._conn) as conn:
            schema = catalog.schema(conn)
        call = sql.SQL("{}.{}({})").format(schema, sql.Identifier(function), named)
        return sql.SQL(query).format(call, schema=schema), arguments


def _texts(given: str | Sequence[str] | None) -> list[str] | None:
    """One text or several, as an array's elements."""
    return [given] if isinstance(given, str) else given if given is None else list(given)


@contextlib.contextmanager
def _undone_if_left(conn: psycopg.Connection) -> Iterator[None]:
    """Leaving a stream early cancels its query; a savepoint keeps that from aborting an open transaction."""
    if conn.autocommit and conn.info.transaction_status == pq.TransactionStatus.IDLE:
        yield
    else:
        with conn.transaction():
            yield
