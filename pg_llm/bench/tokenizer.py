"""The tokenizer: loading, compiling in a new session, encoding and decoding; beside tiktoken."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pg_llm
from pg_llm import ingest
from pg_llm.bench.report import Row
from pg_llm.bench.timing import in_turn, seconds, summary

NAME = "bench-gpt2"
# tiktoken's own pattern for GPT-2
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def rows(conn, repeats: int) -> Iterator[Row]:
    vocab, merges = ingest.gpt2_files()
    load = seconds(lambda: ingest.load_tokenizer(conn, vocab, merges, NAME, truncate=True))
    yield Row("tokenizer: GPT-2's two files into rows", "s", load)
    yield compiling(conn)
    peer = tiktoken_gpt2(vocab, merges)
    for kind, text in texts().items():
        yield from encode_decode(conn, repeats, peer, kind, text)
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = %s", [NAME])
    conn.execute("DELETE FROM llm_bpe_merges WHERE model = %s", [NAME])


def texts() -> dict[str, str]:
    """A few megabytes that every Python installation has: English prose and source code."""
    library = Path(sysconfig.get_path("stdlib"))
    topics = library / "pydoc_data" / "topics.py"
    code = "".join(path.read_text(errors="replace") for path in sorted(library.glob("*.py")))
    found = {"Python code": code.replace("\0", "")}
    if topics.is_file():
        found = {"English prose": topics.read_text().replace("\\n", "\n").replace("\0", ""), **found}
    return found


def tiktoken_gpt2(vocab: Path, merges: Path):
    """tiktoken's GPT-2 from the same two files, or None where it is not installed."""
    try:
        import tiktoken
        import tiktoken.load
    except ImportError:
        return None
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(merges), encoder_json_file=str(vocab)
    )
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


def compiling(conn) -> Row:
    """The first encode of a session reads 50,257 tokens and 50,000 merges."""
    times = []
    for _ in range(5):
        with pg_llm.connect(conn.info.dbname) as session:
            query = "SELECT llm_encode('Hello', %s)"
            times.append(seconds(lambda session=session, query=query: session.execute(query, [NAME])))
    return Row("tokenizer: first encode of a session", "ms", *(_scaled(*summary(times), 1e3)))


def encode_decode(conn, repeats: int, peer, kind: str, text: str) -> Iterator[Row]:
    """Inside the server, so that the protocol is not measured; tiktoken on one thread."""
    megabytes = len(text.encode()) / 1e6
    conn.execute("CREATE TEMP TABLE bench_text (text text, ids int[])")
    conn.execute("ALTER TABLE bench_text ALTER text SET STORAGE EXTERNAL, ALTER ids SET STORAGE EXTERNAL")
    conn.execute(
        "INSERT INTO bench_text SELECT t, llm_encode(t, %s) FROM (SELECT %s::text) AS s(t)", [NAME, text]
    )
    ids = conn.execute("SELECT ids FROM bench_text", binary=True).fetchone()[0]
    if peer:
        assert peer.encode_ordinary(text) == ids, "llm_encode and tiktoken differ"
    for what, query, theirs in [
        (
            "encode",
            "SELECT cardinality(llm_encode(text, %s)) FROM bench_text",
            lambda: peer.encode_ordinary(text),
        ),
        ("decode", "SELECT octet_length(llm_decode(ids, %s)) FROM bench_text", lambda: peer.decode(ids)),
    ]:
        times = in_turn(
            repeats, lambda query=query: conn.execute(query, [NAME]).fetchone(), theirs if peer else None
        )
        row = Row(f"{what} {kind}, {megabytes:.1f} MB", "MB/s", megabytes / times[0][0], times[0][1])
        if times[1]:
            row.peer, row.theirs = "tiktoken", megabytes / times[1][0]
        yield row
    conn.execute("DROP TABLE bench_text")


def _scaled(value: float, spread: float, factor: float) -> tuple[float, float]:
    return value * factor, spread
