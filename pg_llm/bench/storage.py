"""Measurements of writing: a checkpoint imported, and a trace written to the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pg_llm
from pg_llm.bench.kit import Kit
from pg_llm.bench.report import OURS, Row, row
from pg_llm.bench.serving import classroom_model
from pg_llm.bench.timing import in_turn, seconds, values_in_turn
from pg_llm.files.convert import save_safetensors

NEW = "bench-import"


def imports(kit: Kit) -> Iterator[Row]:
    """Seconds of an import over the connection and by the server, and of writing the same amount of TOAST."""
    path = kit.folder / "model.safetensors"
    save_safetensors(path, kit.weights)
    path.chmod(0o644)  # the server may have another user
    config = path.with_name("config.json")
    config.write_text(json.dumps({"n_head": kit.shape.n_head}))  # which weights do not tell
    config.chmod(0o644)
    size = path.stat().st_size / 1e6
    kit.conn.execute("CREATE TABLE bench_toast (data bytea STORAGE EXTERNAL)")

    def fill():
        kit.conn.execute(
            "INSERT INTO bench_toast SELECT data::bytea FROM llm_param WHERE model = %s", (kit.model,)
        )

    def by_server():
        kit.conn.execute("SELECT pg_llm_import_safetensors(%s, %s)", (str(path), NEW))

    def measured(action, clean):
        clean()
        kit.conn.execute("CHECKPOINT")
        return seconds(action)

    def forget():
        kit.drop_model(NEW)

    empty = partial(kit.conn.execute, "TRUNCATE bench_toast")
    over_connection = partial(pg_llm.load_model, kit.conn, path, NEW, progress=False)
    measures = {
        "as many bytes as TOAST": partial(measured, fill, empty),
        "connection": partial(measured, over_connection, forget),
    }
    if kit.is_local() and kit.one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        measures["server"] = partial(measured, by_server, forget)
    figures = values_in_turn(2 if kit.quick else kit.repeats, measures)
    toast = figures.pop("as many bytes as TOAST")
    for how, figure in figures.items():
        yield row(
            f"import of {size:.0f} MB, by the {how}", "s", {OURS: figure, "plain bytea": toast},
            smaller_is_better=True, target="1.5 x plain bytea's",
        )  # fmt: skip
    forget()
    kit.conn.execute("DROP TABLE bench_toast")


def traces(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a trace of 128 tokens, written to llm_tape and llm_tensor_rt."""
    query = "SELECT llm_trace(%s, %s::int[])"
    tokens = [i % 256 for i in range(128)]
    times = in_turn(kit.repeats, {OURS: partial(kit.one, query, (classroom_model(kit), tokens))})
    kit.conn.execute("SELECT llm_prune_autograd_state()")
    yield row(
        "trace of the classroom model, 128 tokens", "ms", {OURS: times[OURS].times(1e3)},
        smaller_is_better=True, target="100 ms",
    )  # fmt: skip
