"""Makes a classroom model from its recipe alone: tokenizer, stories, training, files.

Everything happens in a database of its own, in statements that a notebook could run; each stage is committed,
so that an interrupted training resumes where it stopped, with the same bits as a result.
"""

from __future__ import annotations

import contextlib
import csv
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from pg_llm import catalog, classroom
from pg_llm.errors import KitError
from pg_llm.files.adapter import register
from pg_llm.files.convert import save_safetensors
from pg_llm.server.connect import maintenance, open_database

DATASET = "classroom"
# Stories per transaction, seconds between two checks of the log, steps per row of the csv.
PIECE, LOOK, WINDOW = 10_000, 2.0, 50


def train(
    layers: int,
    folder: Path,
    *,
    database: str | None = None,
    steps: int | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Trains the classroom model with that many layers and writes its files; returns their SHA-256 by name.

    steps: stops there, for a trial; a further call resumes. fresh: discards the earlier training.
    Errors: KitError for more steps than the recipe's, or fewer than are done already.
    Example: train(1, Path("."), steps=20)
    """
    recipe, model = classroom.recipe(), classroom.model_name(layers)
    last = last_step(recipe, steps)
    folder.mkdir(parents=True, exist_ok=True)  # fails before the training if it cannot be created
    database = database or f"train_{model}".replace("-", "_")
    with workshop(database, fresh) as conn:
        say(f"database {database}: {_begin(conn, recipe, model, layers, last)}")
        with progress(database, model, last):
            for stories, until_step in _stages(recipe, model, last):
                if (trained_steps(conn, model) or 0) < until_step:
                    _tell_stories(conn, recipe, stories)
                    _run(conn, recipe, model, until_step)
        return export(conn, model, folder)


def export(conn: psycopg.Connection, model: str, folder: Path) -> dict[str, str]:
    """Writes weights, tokenizer and log of a trained model; equal weights give equal bytes."""
    _write_weights(conn, model, folder / f"{model}.safetensors")
    _write_tokenizer(conn, folder)
    write_log(conn, model, folder / f"{model}.csv")
    names = [f"{model}.safetensors", f"{model}.csv", "vocab.json", "merges.txt"]
    return {name: classroom.sha256(folder / name) for name in names}


# -- stages ------------------------------------------------------------------------------


@contextlib.contextmanager
def workshop(database: str, fresh: bool) -> Iterator[psycopg.Connection]:
    """A connection to a database with only the extension in it, without models."""
    name = sql.Identifier(database)
    with maintenance() as conn:
        if fresh:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(name))
    with contextlib.closing(open_database(database)) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS pg_llm")
        register(conn)
        yield conn


def _begin(conn: psycopg.Connection, recipe: dict, model: str, layers: int, last: int) -> str:
    """Creates tokenizer and random weights unless they exist; returns the state of the training."""
    sizes, tokenizer = recipe["model"], recipe["tokenizer"]
    if there := state(conn, recipe, model, last):
        return there
    with conn.transaction():
        count = catalog.value(
            conn,
            "SELECT llm_bpe_train(%s, %s, %s, truncate => true)",
            [tokenizer["corpus"], tokenizer["vocab_size"], classroom.TOKENIZER],
        )
        if count != sizes["vocab"]:
            raise KitError(f"the stories gave {count} tokens, the recipe says {sizes['vocab']}")
        eos = catalog.value(conn, "SELECT llm_end_token(%s)", [classroom.TOKENIZER])
        dimensions = [layers, sizes["n_head"], sizes["d_model"], sizes["n_positions"], sizes["vocab"]]
        conn.execute(
            "SELECT llm_create_model(%s, %s, %s, %s, %s, %s, tokenizer => %s, options => %s::jsonb)",
            [model, *dimensions, classroom.TOKENIZER, json.dumps({"eos_token_id": eos})],
        )
        conn.execute(
            "UPDATE llm_model_config SET recipe = %s::jsonb WHERE model = %s",
            [json.dumps(recipe["train"]), model],
        )
        conn.execute(
            "UPDATE llm_graph SET attrs = attrs || jsonb_build_object('std', s.value) "
            "FROM jsonb_each(%s::jsonb) AS s "
            "WHERE model = %s AND op = 'param' AND (name = s.key OR name LIKE '%%.' || s.key)",
            [json.dumps(sizes["std"]), model],
        )
        numbers = catalog.value(conn, "SELECT llm_init_model(%s, %s)", [model, sizes["seed"][model]])
    return f"{count} tokens learned, {numbers} random numbers, {last} steps to go"


def last_step(recipe: dict, steps: int | None) -> int:
    """The step at which to stop: `steps`, or the recipe's last. Errors: KitError beyond that."""
    last = recipe["steps"] if steps is None else steps
    if not 0 < last <= recipe["steps"]:
        raise KitError(f"the recipe has {recipe['steps']} steps, not {steps}")
    return last


def state(conn: psycopg.Connection, recipe: dict, model: str, last: int) -> str | None:
    """How far an earlier training has come, None without one. Errors: KitError if it cannot end at `last`."""
    step = trained_steps(conn, model)
    if step is None:
        return None
    found = catalog.value(conn, "SELECT recipe FROM llm_model_config WHERE model = %s", [model])
    runs = conn.execute("SELECT n_steps FROM llm_train_run WHERE model = %s", [model]).fetchall()
    if found != recipe["train"] or any(n != recipe["steps"] for (n,) in runs):
        raise KitError("a run of another recipe is there; --fresh throws it away")
    if step > last:
        raise KitError(f"the run is at step {step}, beyond {last}; --fresh throws it away")
    return f"continues after step {step} of {last}" if step < last else f"all {step} steps are done"


def _stages(recipe: dict, model: str, last: int) -> Iterator[tuple[int, int]]:
    """Yields the number of stories up to each stage's last step; finally one for each place in each batch."""
    batch, steps = recipe["train"]["batch_size"], recipe["steps"]
    for stage in [*recipe["stages"].get(model, []), {"stories": steps * batch, "until_step": steps}]:
        yield stage["stories"], min(stage["until_step"], last)
        if stage["until_step"] >= last:
            break


def _tell_stories(conn: psycopg.Connection, recipe: dict, want: int) -> None:
    from tqdm.auto import tqdm

    have = catalog.value(conn, "SELECT count(*) FROM llm_dataset WHERE dataset = %s", [DATASET])
    with tqdm(total=want, initial=have, unit=" stories", delay=2, leave=False) as bar:
        while have < want:
            n = min(PIECE, want - have)
            seed = recipe["stories_from"] + have
            conn.execute("SELECT llm_story_dataset(%s, %s, %s, %s)", [DATASET, seed, n, classroom.TOKENIZER])
            have += n
            bar.update(n)
    conn.execute("VACUUM (ANALYZE) llm_dataset")


def _run(conn: psycopg.Connection, recipe: dict, model: str, until_step: int) -> None:
    """Trains one stage; the loop continues from the model's own step."""
    conn.execute("CALL llm_train_loop(%s, %s, until_step => %s)", [model, recipe["steps"], until_step])


def trained_steps(conn: psycopg.Connection, model: str) -> int | None:
    """How many steps a model has taken, None without weights."""
    return catalog.value(conn, "SELECT max(step) FROM llm_param WHERE model = %s", [model])


@contextlib.contextmanager
def progress(database: str, model: str, steps: int) -> Iterator[None]:
    """A progress bar over the committed steps, read through a second connection."""
    from tqdm.auto import tqdm

    done = threading.Event()
    query = "SELECT step, loss FROM llm_train_log WHERE model = %s ORDER BY step DESC LIMIT 1"

    def watch():
        with contextlib.closing(open_database(database)) as conn, tqdm(total=steps, unit=" steps") as bar:
            over = False
            while not over:
                over = done.wait(LOOK)
                step, loss = conn.execute(query, [model]).fetchone() or (0, float("nan"))
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update(step - bar.n)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


# -- files -------------------------------------------------------------------------------


def _write_weights(conn: psycopg.Connection, model: str, path: Path) -> None:
    rows = conn.execute(
        "SELECT name, data FROM llm_param JOIN llm_graph USING (model, name) WHERE model = %s ORDER BY id",
        [model],
    ).fetchall()
    config = catalog.value(conn, "SELECT llm_export_config(%s)::text", [model])
    save_safetensors(path, dict(rows), config)


def _write_tokenizer(conn: psycopg.Connection, folder: Path) -> None:
    """Writes GPT-2's two files."""
    own = [classroom.TOKENIZER]
    vocab = conn.execute(
        "SELECT token, token_id FROM llm_bpe_vocab WHERE model = %s ORDER BY token_id", own
    ).fetchall()
    merges = conn.execute(
        "SELECT left_token, right_token FROM llm_bpe_merges WHERE model = %s ORDER BY rank", own
    ).fetchall()
    text = json.dumps(dict(vocab), ensure_ascii=False, indent=0)
    (folder / "vocab.json").write_text(text + "\n", "utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def write_log(conn: psycopg.Connection, model: str, path: Path) -> None:
    """Writes means over windows of steps; tokens are cumulative. Seconds are left out."""
    rows = conn.execute(
        "SELECT step, lr, loss, grad_norm, tokens FROM llm_train_log WHERE model = %s ORDER BY step", [model]
    ).fetchall()
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "tokens", "lr", "loss", "grad_norm"])
        total = 0
        for start in range(0, len(rows), WINDOW):
            step, lr, loss, norm, tokens = zip(*rows[start : start + WINDOW], strict=True)
            total += sum(tokens)
            means = f"{np.mean(loss):.5f}", f"{np.mean(norm):.5f}"
            writer.writerow([step[-1], total, f"{lr[-1]:.4g}", *means])
