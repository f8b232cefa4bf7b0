"""The same bits from every instruction set, number of threads, cache and PostgreSQL version (DESIGN, I2).

hashes.json has a hash for each kernel, and for models' weights, forward passes and generations. Bits must not
change: saved notebook outputs and replayed training depend on them. For an intended change, write the file
again with
    PG_LLM_WRITE_HASHES=1 python -m pytest tests/model/test_same_bits.py
and say in the commit message which hashes changed and why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import psycopg
import pytest
from helpers import same_bits
from helpers.pg_install import PgServer, installed, pg_config_of

FILE = Path(__file__).with_name("hashes.json")
WRITE = os.environ.get("PG_LLM_WRITE_HASHES") == "1"
SETTINGS = [(isa, threads) for isa in ("scalar", "avx2", "avx512") for threads in (1, 2)]


def kept() -> dict[str, str]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def set_level(conn, isa: str, threads: int) -> None:
    conn.execute(f"SET pg_llm.threads = {threads}")
    try:
        conn.execute(f"SET pg_llm.isa = {isa}")
    except psycopg.errors.InvalidParameterValue as error:
        pytest.skip(f"{isa}: {error.diag.message_detail}")


def check(conn, isa: str, threads: int) -> None:
    set_level(conn, isa, threads)
    try:
        hashes = same_bits.all_hashes(conn)
    finally:
        conn.execute("RESET pg_llm.isa")
        conn.execute("RESET pg_llm.threads")
    differ = [name for name, value in hashes.items() if kept().get(name) != value]
    assert not differ, f"other bits with {isa} and {threads} threads: {differ}"
    assert hashes.keys() == kept().keys()


@pytest.fixture(scope="module")
def models(database):
    """A connection to a database with the models in it; writes the hashes if asked to."""
    import pg_llm

    with pg_llm.connect(database) as conn:
        same_bits.make_models(conn)
        if WRITE:
            FILE.write_text(json.dumps(same_bits.all_hashes(conn), indent=1) + "\n")
        yield conn


@pytest.mark.parametrize(("isa", "threads"), SETTINGS)
def test_hashes(models, isa, threads):
    check(models, isa, threads)


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "threads"), SETTINGS)
def test_cache_changes_nothing(models, isa, threads):
    """Greedy generation with the KV cache is the argmax of full forward passes, beyond 128 positions too."""
    set_level(models, isa, threads)
    for model in same_bits.MODELS:
        for prompt, n in ((b"The same", 12), (bytes(same_bits.TEXT[:124]), 8)):
            cached = same_bits.stream(models, model, prompt.decode(), n, 0, 0)
            assert cached == same_bits.uncached(models, model, list(prompt), n)
    models.execute("RESET pg_llm.isa")
    models.execute("RESET pg_llm.threads")


def test_parts_of_a_batch(models):
    """The logits of a sequence are the same alone, in a batch, and as the start of a longer one."""
    for model in same_bits.MODELS:
        texts = [same_bits.TEXT[i : i + 30] for i in range(4)]
        batch = same_bits.logits(models, model, texts)
        for text, rows in zip(texts, batch, strict=True):
            assert same_bits.logits(models, model, text).tobytes() == rows.tobytes()
            assert same_bits.logits(models, model, text[:7]).tobytes() == rows[:7].tobytes()


def test_one_nan(models):
    """A NaN returned by the extension is 0x7fc00000, whatever its origin."""
    odd = same_bits.ODD
    for name, expression in same_bits.KERNELS.items():
        if same_bits.X in expression and "bytea)" not in expression and "argmax" not in name:
            value = same_bits.tensor(models, expression, odd=odd.tobytes())
            bits = value.view("<u4")[value != value]
            assert (bits == 0x7FC00000).all(), name


@pytest.fixture(scope="module", params=[15, 16, 18])
def other_postgres(request, home):
    """A connection to a server of that version with the models in a database of it."""
    if pg_config_of(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} with its headers is not on this machine")
    folder = home / f"bits{request.param}"
    folder.mkdir(mode=0o755)
    install = installed(request.param)
    server = PgServer(install, folder)
    try:
        with server.connect() as conn:
            conn.execute("CREATE DATABASE bits")
        with server.connect("bits") as conn:
            conn.execute("CREATE EXTENSION pg_llm")
            same_bits.make_models(conn)
            yield conn
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "threads"), SETTINGS)
def test_hashes_on_every_postgres(other_postgres, isa, threads):
    check(other_postgres, isa, threads)
