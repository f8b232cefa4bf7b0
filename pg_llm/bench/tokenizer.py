"""The tokenizer: loading, compiling in a new session, encoding and decoding; beside tiktoken."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pg_llm.bench.kit import Kit
from pg_llm.bench.peers import installed
from pg_llm.bench.report import OURS, Row, rates, row
from pg_llm.bench.timing import in_turn, seconds, summary
from pg_llm.files.tokenizer import gpt2_files, load_tokenizer

NAME = "bench-gpt2"
# tiktoken's own pattern for GPT-2
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
# A sentence in many scripts, with accents, digits, signs and emoji.
MIXED = (
    "The weights are rows. Die Gewichte sind Zeilen, schön groß! Los pesos son filas: ¿cuántas? 42 %. "
    "Веса — это строки. Τα βάρη είναι γραμμές. 重みは行です。权重是行。 가중치는 행이다. "
    "الأوزان صفوف. वज़न पंक्तियाँ हैं। 🙂👩‍🔬 x² ≈ ∑ wᵢ·xᵢ → ½\n"
)


def tokenizer(kit: Kit) -> Iterator[Row]:
    """Loading GPT-2's tokenizer, and encoding text with it."""
    vocab, merges = gpt2_files()
    load = seconds(lambda: load_tokenizer(kit.conn, vocab, merges, NAME, truncate=True))
    yield Row("tokenizer, GPT-2's two files into rows", "s", load, smaller_is_better=True)
    yield compiling(kit)
    peer = tiktoken_gpt2(vocab, merges) if kit.with_peers and installed("tiktoken") else None
    for kind, text in texts().items():
        yield from encode_decode(kit, peer, kind, text)
    kit.conn.execute("DELETE FROM llm_bpe_vocab WHERE model = %s", [NAME])
    kit.conn.execute("DELETE FROM llm_bpe_merges WHERE model = %s", [NAME])


def texts() -> dict[str, str]:
    """Megabytes of text from every Python installation: English prose and source code; and mixed scripts."""
    library = Path(sysconfig.get_path("stdlib"))
    topics = library / "pydoc_data" / "topics.py"
    code = "".join(path.read_text(errors="replace") for path in sorted(library.glob("*.py")))
    found = {"Python code": code.replace("\0", ""), "mixed Unicode": MIXED * 4000}
    if topics.is_file():
        found = {"English prose": topics.read_text().replace("\\n", "\n").replace("\0", ""), **found}
    return found


def tiktoken_gpt2(vocab: Path, merges: Path):
    """tiktoken's GPT-2 from the same two files."""
    import tiktoken
    import tiktoken.load

    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(merges), encoder_json_file=str(vocab)
    )
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


def compiling(kit: Kit) -> Row:
    """Seconds of the first encode of a session, which reads 50,257 tokens and 50,000 merges."""
    times = []
    for _ in range(kit.repeats):
        with kit.connect() as session:
            times.append(seconds(partial(session.execute, "SELECT llm_encode('Hello', %s)", [NAME])))
    figure = summary(times).times(1e3)
    return row("tokenizer, first encode of a session", "ms", {OURS: figure}, smaller_is_better=True)


def encode_decode(kit: Kit, peer, kind: str, text: str) -> Iterator[Row]:
    """Encoding and decoding inside the server, without the protocol; tiktoken on one thread."""
    megabytes = len(text.encode()) / 1e6
    kit.conn.execute("CREATE TEMP TABLE bench_text (text text, ids int[])")
    kit.conn.execute("ALTER TABLE bench_text ALTER text SET STORAGE EXTERNAL, ALTER ids SET STORAGE EXTERNAL")
    kit.conn.execute(
        "INSERT INTO bench_text SELECT t, llm_encode(t, %s) FROM (SELECT %s::text) AS s(t)", [NAME, text]
    )
    ((ids,),) = kit.conn.execute("SELECT ids FROM bench_text", binary=True).fetchall()
    if peer:
        assert peer.encode_ordinary(text) == ids, "llm_encode and tiktoken differ"
    for what, query, theirs in [
        (
            "encode",
            "SELECT cardinality(llm_encode(text, %s)) FROM bench_text",
            lambda: peer.encode_ordinary(text),
        ),
        (
            "decode",
            "SELECT octet_length(llm_decode(ids, %s)) FROM bench_text",
            lambda: peer.decode(ids),
        ),
    ]:
        actions = {OURS: partial(kit.one, query, [NAME])} | ({"tiktoken": theirs} if peer else {})
        name = f"{what} {kind}, {megabytes:.1f} MB"
        yield rates(name, "MB/s", megabytes, in_turn(kit.repeats, actions))
    kit.conn.execute("DROP TABLE bench_text")
