"""How the cost grows: with tokens, layers, width, sessions, and the size of a corpus or a story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from pg_llm.bench.kit import Kit
from pg_llm.bench.peers import Shape
from pg_llm.bench.report import OURS, Row, row
from pg_llm.bench.serving import Crowd
from pg_llm.bench.timing import in_turn

MODEL = "bench-growth"
BASE = Shape(4, 4, 256, 1024, 8192)
T = 256
# The number of different words grows with the square root of the text, as in a language.
LEARN = """SELECT llm_bpe_train('SELECT string_agg(md5(sqrt(i)::int::text), '' '')
    FROM generate_series(1, ' || %s / 33 || ') AS i', 1000, 'bench-learned')"""
TELL = "SELECT sum(length(text)) FROM generate_series(1, %s) AS seed, llm_story(seed)"


def growth(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a prefill as one dimension of the model grows; total tokens/s of several sessions."""
    few = 2 if kit.quick else 5
    tokenizer = kit.byte_tokenizer(MODEL)
    kit.make_model(MODEL, BASE)
    for tokens in (64, 128, 256, 512, 1024)[:few]:
        yield prefill(kit, "tokens", tokens, tokens)
    for layers in (1, 2, 4, 8, 16)[:few]:
        kit.make_model(MODEL, replace(BASE, n_layer=layers))
        yield prefill(kit, "layers", layers, T)
    for width in (64, 128, 256, 512, 1024)[:few]:
        kit.make_model(MODEL, replace(BASE, d_model=width))
        yield prefill(kit, "width", width, T)
    kit.make_model(MODEL, BASE, tokenizer)
    for count in (1, 2, 4, 8, 16)[:few]:
        crowd = Crowd(kit, MODEL, count)
        yield Row(f"growth with sessions, {count}", "tokens/s", crowd.run(kit.long / 10)[0])
        crowd.close()
    kit.drop_model(MODEL)
    # Twice the text takes twice the time; a quadratic algorithm would take four times as long.
    for thousand in (250, 500, 1000, 2000, 4000)[:few]:
        yield grows(kit, f"growth of learning a tokenizer, {thousand} KB", LEARN, thousand * 1000)
    for stories in (1000, 2000, 4000, 8000, 16000)[:few]:
        yield grows(kit, f"growth of telling stories, {stories}", TELL, stories)


def grows(kit: Kit, name: str, query: str, size: int) -> Row:
    """Milliseconds of one statement of that size; what it wrote is rolled back."""

    def action() -> None:
        with kit.conn.transaction(force_rollback=True):
            kit.one(query, (size,))

    times = in_turn(kit.repeats, {OURS: action})
    return row(name, "ms", {OURS: times[OURS].times(1e3)}, smaller_is_better=True)


def prefill(kit: Kit, what: str, size: int, tokens: int) -> Row:
    """Milliseconds of one prefill of that many tokens."""
    query = "SELECT numel(llm_logits(%s::int[], %s))"
    ids = [i % BASE.vocab for i in range(tokens)]
    times = in_turn(kit.repeats, {OURS: partial(kit.one, query, (ids, MODEL))})
    figures = {OURS: times[OURS].times(1e3)}
    return row(f"growth with {what}, {size}", "ms", figures, smaller_is_better=True)
