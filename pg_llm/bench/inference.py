"""Prefill and decode of a GPT-2-small shape, beside every peer; the latency of the first token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from pg_llm.bench.kit import Kit
from pg_llm.bench.peers import agree
from pg_llm.bench.report import OURS, Row, rates, row
from pg_llm.bench.timing import in_turn, seconds, summary

# of the logits' standard deviation: peers round their intermediates differently
TOLERANCE = 0.01


def prefill(kit: Kit) -> Iterator[Row]:
    """Tokens per second of a prompt, with the logits of the last position and of all."""
    T = 128 if kit.quick else 512
    (hello,) = kit.one("SELECT llm_encode(' hello', 'gpt2')")
    tokens, words = [hello] * T, " hello" * T
    ours = np.asarray(kit.one("SELECT llm_logits(%s::int[], %s)", (tokens, kit.model)))[-1]
    rivals = list(kit.peers("openvino", "llama", "torch"))
    for peer in rivals:
        agree(ours, peer, tokens, TOLERANCE)
    queries = {
        "last": ("SELECT token_id FROM llm_next_tokens(%s, 1, %s)", words),
        "all": ("SELECT numel(llm_logits(%s::int[], %s))", tokens),
    }
    for which, (query, text) in queries.items():
        actions: dict[str, Callable] = {OURS: partial(kit.one, query, (text, kit.model))}
        actions |= {peer.name: partial(peer.prefill, tokens, which == "all") for peer in rivals}
        times, peak = kit.beside("fma_gflops", {name: partial(seconds, a) for name, a in actions.items()})
        yield rates(
            f"prefill of {T} tokens, {which} logits", "tokens/s", T, times,
            bound=peak / prefill_gflop(kit, T, which == "all"), bound_name="peak",
            target="75 % of peak",
        )  # fmt: skip


def prefill_gflop(kit: Kit, T: int, every: bool) -> float:
    """Multiplications and additions per token on average, in 10^9."""
    s = kit.shape
    weights = kit.matmul_weights() if every else kit.matmul_weights() - s.vocab * s.d_model * (1 - 1 / T)
    attention = s.n_layer * 4 * s.d_model * (T + 1) / 2
    return (2 * weights + attention) / 1e9


# name, bytes per weight, the peer with the same format, target
FORMATS = {
    "float32": (4, ("llama", "torch"), "88 % of read bandwidth"),
    "bf16": (2, ("llama-f16",), "80 % of read bandwidth"),
    "int8": (8.25 / 8, ("llama-q8_0",), "60 % of read bandwidth"),
}


def decode(kit: Kit) -> Iterator[Row]:
    """Tokens per second, one after the other, with weights in each format."""
    n = 16 if kit.quick else 64
    tokens = kit.one("SELECT llm_encode('Hello', 'gpt2')")
    query = "SELECT llm_generate('Hello', %s, 0, model => %s, eos => -1)"
    for form, (size, rivals, target) in FORMATS.items():
        with kit.quantized(form) as model:
            actions: dict[str, Callable] = {OURS: partial(kit.one, query, (n, model))}
            actions |= {peer.name: partial(peer.decode, tokens, n) for peer in kit.peers(*rivals)}
            times, read = kit.beside("read_gb_s", {name: partial(seconds, a) for name, a in actions.items()})
        yield rates(
            f"decode, {n} tokens, {form}", "tokens/s", n, times,
            bound=read * 1e9 / (size * kit.matmul_weights()), bound_name="read bandwidth", target=target,
        )  # fmt: skip


def batch(kit: Kit) -> Iterator[Row]:
    """Tokens per second of eight texts at a time, beside one after the other."""
    n, prompts = 8 if kit.quick else 32, [f"Once upon a time{' there was' * i}" for i in range(8)]
    more = "%s, 0, model => %s, eos => -1)"

    def together() -> None:
        query = f"SELECT text FROM llm_generate_batch(%s::text[], {more}"
        kit.conn.execute(query, (prompts, n, kit.model)).fetchall()

    def one_by_one() -> None:
        for prompt in prompts:
            kit.one(f"SELECT llm_generate(%s, {more}", (prompt, n, kit.model))

    times = in_turn(kit.repeats, {OURS: together, "one by one": one_by_one})
    yield rates("eight texts at a time", "tokens/s", 8 * n, times, target="twice one by one")


def first_token(kit: Kit) -> Iterator[Row]:
    """Time from connecting to the first token of a new session; another session has loaded the weights."""
    query = "SELECT * FROM llm_next_tokens('Hello', 1, %s)"
    kit.one(query, (kit.model,))

    def once():
        with kit.connect() as session:
            session.execute(query, (kit.model,)).fetchall()

    times = summary([seconds(once) for _ in range(kit.repeats)])
    name = "first token in a new session"
    yield row(name, "s", {OURS: times}, smaller_is_better=True, target="0.2 s")
