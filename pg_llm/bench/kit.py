"""The setup of the measurements: a database of its own, the models in it, the peers with the same weights."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

import pg_llm
from pg_llm import catalog
from pg_llm.bench import peers
from pg_llm.bench.peers import SMALL, Peer, Shape, Weights
from pg_llm.bench.timing import Figure, values_in_turn
from pg_llm.server.connect import libpq_environment

MODEL = "bench-gpt2"


class Kit:
    """A connection and the state shared by measurements; use as a context manager.

    quick: two layers instead of twelve and shorter texts, for an overview in a few minutes.
    """

    def __init__(self, repeats: int = 5, quick: bool = False, with_peers: bool = True):
        self.repeats = 2 if quick else repeats
        self.quick = quick
        self.long = 2.0 if quick else 20.0  # seconds for which many sessions are kept busy
        self.with_peers = with_peers
        self.shape = Shape(2, 12, 768, 1024, 50257) if quick else SMALL
        self.size = "GPT-2 small" if not quick else "GPT-2 small with 2 layers"
        self._peers: dict[str, Peer] = {}

    def __enter__(self) -> Kit:
        self._stack = contextlib.ExitStack()
        self.conn = self._stack.enter_context(pg_llm.connect(fresh=True))
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pg_llm-bench-")))
        self.folder.chmod(0o755)  # the server reads from it, possibly as another user
        return self

    def __exit__(self, *error) -> None:
        self._peers.clear()
        self._stack.close()

    def one(self, query: str, parameters=()) -> Any:
        """The first column of a query's first row."""
        row = self.conn.execute(query, parameters).fetchone()
        return row[0] if row else None

    def connect(self) -> psycopg.Connection:
        """Another session on the same database; the caller closes it.

        It uses psycopg directly: pg_llm.connect starts a program to check the server, which takes a quarter
        of a second in a process that has loaded the peers' models.
        """
        info = self.conn.info
        with libpq_environment():
            return psycopg.connect(info.dsn, password=info.password or None, autocommit=True)

    # -- the machine ----

    @cached_property
    def machine(self) -> tuple[int, float, float]:
        """Threads, multiply-add peak in GFLOP/s, memory read in GB/s: the best of a few measurements."""
        tries = [catalog.row(self.conn, "SELECT * FROM llm_measure_peak()") for _ in range(3)]
        return tries[0][0], max(t[1] for t in tries), max(t[2] for t in tries)

    def beside(
        self, which: str, measures: Mapping[str, Callable[[], float]]
    ) -> tuple[dict[str, Figure], float]:
        """The results of the measures, taken alternately, and the machine's peak rate in between.

        which: fma_gflops or read_gb_s, a column of llm_measure_peak.
        """
        query = f"SELECT {which} FROM llm_measure_peak()"
        figures = values_in_turn(self.repeats, {**measures, "": lambda: self.one(query)})
        return figures, figures.pop("").value

    @property
    def threads(self) -> int:
        """The number of threads with which the server computes."""
        return self.machine[0]

    # -- the model ----

    @cached_property
    def model(self) -> str:
        """The name of a random model of GPT-2 small's shape."""
        self.make_model(MODEL, self.shape)
        return MODEL

    def make_model(self, name: str, shape: Shape, tokenizer: str = "gpt2") -> None:
        """Creates a model with random weights, replacing one of that name."""
        self.drop_model(name)
        self.conn.execute(
            "SELECT llm_create_model(%s, %s, %s, %s, %s, %s, tokenizer => %s)",
            (name, shape.n_layer, shape.n_head, shape.d_model, shape.n_positions, shape.vocab, tokenizer),
        )
        self.conn.execute("SELECT llm_init_model(%s, 0)", (name,))

    def byte_tokenizer(self, name: str) -> str:
        """Creates a tokenizer whose 256 tokens are the bytes, for small vocabularies; returns its name."""
        self.conn.execute(
            "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) "
            "SELECT %s, i, 'byte ' || i, set_byte(' ', 0, i) FROM generate_series(0, 255) AS i "
            "ON CONFLICT DO NOTHING",
            (name,),
        )
        return name

    def drop_model(self, name: str) -> None:
        """Drops the model with its parameters."""
        self.conn.execute("DELETE FROM llm_model_config WHERE model = %s", (name,))

    @contextlib.contextmanager
    def quantized(self, form: str) -> Iterator[str]:
        """The name of the model, or of a copy in bf16 or int8 that is dropped at the end."""
        if form == "float32":
            yield self.model
            return
        name = self.one("SELECT llm_quantize(%s, %s)", (self.model, form))
        try:
            yield name
        finally:
            self.drop_model(name)

    @cached_property
    def weights(self) -> Weights:
        """The model's parameters as arrays."""
        query = "SELECT name, data FROM llm_param WHERE model = %s"
        rows = self.conn.execute(query, (self.model,), binary=True)
        return {name: np.array(data) for name, data in rows}

    def settle(self) -> None:
        """Flushes earlier writes to disk, which would otherwise slow down what is measured."""
        self.conn.execute("VACUUM llm_param")
        self.conn.execute("CHECKPOINT")
        os.sync()

    # -- the peers ----

    def peers(self, *names: str) -> Iterator[Peer]:
        """Those of torch, openvino and llama (-f16, -q8_0) that are installed, with our model's weights."""
        makers: dict[str, tuple[tuple[str, ...], Callable[[], Peer]]] = {
            "torch": (("torch",), self._torch),
            "openvino": (("openvino",), self._openvino),
            "llama": (("llama_cpp", "gguf"), self._llama),
            "llama-f16": (("llama_cpp", "gguf"), partial(self._llama, "f16")),
            "llama-q8_0": (("llama_cpp", "gguf"), partial(self._llama, "q8_0")),
        }
        for name in names:
            modules, make = makers[name]
            if self.with_peers and all(map(peers.installed, modules)):
                if name not in self._peers:
                    self._peers[name] = make()
                yield self._peers[name]

    def forget_peers(self) -> None:
        """Releases the peers' memory."""
        self._peers.clear()
        self.__dict__.pop("weights", None)

    def _torch(self) -> Peer:
        from pg_llm.bench.peers.lean import Torch

        return Torch(self.shape, self.weights, self.threads)

    def _openvino(self) -> Peer:
        from pg_llm.bench.peers.openvino_gpt2 import OpenVino

        return OpenVino(self.shape, self.weights, self.threads)

    def _llama(self, kind: str = "f32") -> Peer:
        from pg_llm.bench.peers.llama import Llama

        return Llama(self.shape, self.weights, self.threads, self.folder, kind)

    # -- bounds ----

    def matmul_weights(self, shape: Shape | None = None) -> int:
        """The number of weights that multiply each token: all but position embeddings and vectors."""
        s = shape or self.shape
        return s.n_layer * 12 * s.d_model**2 + s.vocab * s.d_model

    def is_local(self) -> bool:
        """True if the server's processes are on this machine, so that /proc describes them."""
        pid = self.conn.info.backend_pid
        with contextlib.suppress(OSError):
            return "postgres" in Path(f"/proc/{pid}/cmdline").read_text()
        return False


def proportional(pid: int) -> int:
    """A process's memory in bytes, shared pages divided among the processes that map them; 0 if unavailable.

    Example: proportional(os.getpid())
    """
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:")


def anonymous(pid: int) -> int:
    """The private memory of a process in bytes; 0 if unavailable. Example: anonymous(os.getpid())"""
    return _field(f"/proc/{pid}/status", "RssAnon:")


def _field(path: str, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
