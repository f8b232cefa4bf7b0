"""GPT-2-small shape with random weights: import, first token, prefill, decode; beside PyTorch eager."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pg_llm
from pg_llm.bench.report import Row
from pg_llm.bench.timing import in_turn, summary

MODEL = "bench-gpt2-small"
PROMPT = 512
NEW = 32


def rows(conn, repeats: int) -> Iterator[Row]:
    peer = torch_model()
    conn.execute("SELECT llm_create_model(%s, 12, 12, 768, 1024, 50257, tokenizer => 'gpt2')", (MODEL,))
    with tempfile.TemporaryDirectory() as folder:
        if peer:
            peer.save_pretrained(folder)
            start = time.perf_counter()
            pg_llm.load_model(conn, Path(folder), MODEL)
            yield Row("import of 124M parameters over the connection", "s", time.perf_counter() - start)
        else:
            conn.execute("SELECT llm_init_model(%s, 0)", (MODEL,))
    yield first_token(conn)
    yield from prefill(conn, repeats, peer)
    yield decode(conn, repeats, peer)


def torch_model():
    """A random GPT-2 small of transformers, or None where it is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()


def first_token(conn) -> Row:
    """From the connection attempt to the first token, weights not yet in the new session."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with pg_llm.connect(conn.info.dbname) as session:
            session.execute("SELECT * FROM llm_next_tokens('Hello', 1, %s)", (MODEL,)).fetchall()
            times.append(time.perf_counter() - start)
    return Row("first token in a new session", "s", *summary(times))


def prefill(conn, repeats: int, peer) -> Iterator[Row]:
    tokens = [17 * i % 50257 for i in range(PROMPT)]
    query = "SELECT numel(llm_logits(%s::int[], %s))"
    last = "SELECT token_id FROM llm_next_tokens(%s, 1, %s)"
    words = " hello" * PROMPT
    theirs = theirs_last = None
    if peer:
        import torch

        ids = torch.tensor([tokens])

        def run(**options):
            with torch.no_grad():
                peer(ids, use_cache=False, **options)

        theirs, theirs_last = run, lambda: run(logits_to_keep=1)
    for name, ours, other in (
        ("all logits", lambda: conn.execute(query, (tokens, MODEL)).fetchone(), theirs),
        ("last logits", lambda: conn.execute(last, (words, MODEL)).fetchone(), theirs_last),
    ):
        mine, other_time = in_turn(repeats, ours, other)
        yield per_second(f"prefill of {PROMPT} tokens, {name}", PROMPT, mine, other_time)


def decode(conn, repeats: int, peer) -> Row:
    query = "SELECT llm_generate('Hello', %s, 0, model => %s, eos => -1)"
    theirs = None
    if peer:
        import torch

        ids = torch.tensor([[15496]])

        def theirs():
            with torch.no_grad():
                peer.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)

    ours = in_turn(repeats, lambda: conn.execute(query, (NEW, MODEL)).fetchone(), theirs)
    return per_second(f"decode, {NEW} tokens", NEW, *ours)


def per_second(name: str, tokens: int, ours: tuple[float, float], theirs: tuple[float, float] | None) -> Row:
    row = Row(name, "tokens/s", tokens / ours[0], ours[1], "PyTorch eager" if theirs else "")
    if theirs:
        row.theirs = tokens / theirs[0]
    return row
