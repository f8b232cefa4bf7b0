"""The model that notebooks inspect: the classroom model, or a stand-in that is trained in seconds."""

from __future__ import annotations

from typing import Any

import psycopg

from pg_llm import catalog
from pg_llm.notebook import session

STEPS, BATCH, STORIES = 24, 16, 384


def practice_model(conn: psycopg.Connection | None = None) -> str:
    """The name of a small trained GPT-2 (4 layers, 4 heads, width 128) in the database.

    `classroom` if it is there; otherwise `practice`, which is created and trained for a few seconds.
    """
    with session.connection(conn) as chosen:
        query = "SELECT model FROM {0}.llm_param WHERE model IN ('classroom', 'practice') ORDER BY 1 LIMIT 1"
        found = chosen.execute(catalog.qualified(chosen, query)).fetchone()
        if found:
            return found[0]
        print(f"This database has no classroom model; a stand-in reads {STORIES:,} stories first.")
        with chosen.transaction():
            chosen.execute("SET LOCAL client_min_messages = warning")
            _train(chosen)
    return "practice"


def _train(conn: psycopg.Connection) -> None:
    def run(query: str, *arguments: object) -> Any:
        return catalog.value(conn, catalog.qualified(conn, query), arguments)

    story = "SELECT ({0}.llm_story(seed)).text FROM generate_series(0, 19999) AS seed"
    corpus = catalog.qualified(conn, story).as_string(conn)
    vocab = run("SELECT {0}.llm_bpe_train(%s, 2048, 'practice')", corpus)
    end = run("SELECT {0}.llm_end_token('practice')")
    run(
        "SELECT {0}.llm_create_model('practice', 4, 4, 128, 128, %s, options => "
        "jsonb_build_object('eos_token_id', %s::int)), {0}.llm_init_model('practice', 1), "
        "{0}.llm_story_dataset('practice', 0, %s, 'practice')",
        vocab, end, STORIES,
    )  # fmt: skip
    run(
        "SELECT {0}.llm_train('practice', %s, batch_size => %s, lr_max => 3e-3, warmup => 4, min_lr => 3e-4, "
        "beta2 => 0.98, wd => 0.1, grad_clip => 1, dropout_p => 0, seed => 1)",
        STEPS, BATCH,
    )  # fmt: skip
