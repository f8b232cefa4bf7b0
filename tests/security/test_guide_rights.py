"""The guide's recipe by GRANT: each part of it allows what it says, and nothing before."""

from __future__ import annotations

import re

import psycopg
import pytest
from helpers.bare_database import database as database
from helpers.paths import REPO
from helpers.tiny_model import make

USES = {
    "run models": [
        "SELECT llm_generate('ab', 3, 0, model => 'm')",
        "SELECT * FROM llm_next_tokens('ab', 3, 'm')",
        "SELECT count(*) FROM llm_attention_map",
    ],
    "record runs": [
        "SELECT llm_trace('m', '{1,2,3}')",
        "SET pg_llm.autograd = on; SELECT llm_loss('m', '{1,2,3}', '{2,3,4}')",
        "SET pg_llm.autograd = off; SELECT count(*) FROM llm_tape_named",
        "SELECT llm_prune_autograd_state()",
    ],
    "make, change": [
        "SELECT llm_create_model('own', 1, 1, 4, 16, 300), llm_init_model('own', 1)",
        "SELECT llm_bpe_train('SELECT ''a cat sat on a mat and sat''', 260, 'own')",
        "UPDATE llm_graph SET op = 'relu' WHERE model = 'own' AND op = 'gelu'",
        "SELECT llm_lora_add('own', 'lora'), llm_lora_merge('lora', 'merged')",
        "SELECT llm_share_param('own', 'h.0.ln_1.bias', 'own', 'h.0.ln_2.bias')",
        "DELETE FROM llm_model_config WHERE model = 'm'",
    ],
    "train them": [
        "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('d', '{1,2,3}', '{2,3,4}')",
        "SELECT llm_train('own', 2, dataset => 'd', lr_max => 0.01, warmup => 1)",
        "CALL llm_train_loop('own', 2, dataset => 'd', lr_max => 0.01, warmup => 1)",
        "SELECT llm_checkpoint_save('own', 'x'), llm_checkpoint_load('own', 1)",
    ],
}


def test_each_part_of_the_recipe(conn):
    guide = (REPO / "pg_llm" / "GUIDE.md").read_text()
    (recipe,) = re.findall(r"^```pgsql\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    parts = recipe.strip().split("\n\n")
    assert len(parts) == len(USES)
    make(conn, "m")
    conn.execute("CREATE ROLE pupils; CREATE ROLE guided LOGIN IN ROLE pupils")
    info = {"host": conn.info.host, "port": conn.info.port, "user": "guided", "dbname": conn.info.dbname}
    try:
        with psycopg.connect(**info, autocommit=True) as pupil:
            for part, (what, uses) in zip(parts, USES.items(), strict=True):
                assert part.startswith(f"-- {what}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    pupil.execute(uses[0])
                pupil.execute("RESET ALL")
                conn.execute(part)
                for use in uses:
                    pupil.execute(use)
    finally:
        conn.execute("DROP OWNED BY pupils, guided CASCADE; DROP ROLE guided, pupils")
