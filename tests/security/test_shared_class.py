"""One database for a class: a student runs the teacher's models and sees and changes nobody else's rows."""

from __future__ import annotations

import psycopg
import pytest

import pg_llm
from pg_llm.course import students
from pg_llm.errors import KitError
from pg_llm.server import database as databases

LESSON = "test_shared_lesson"
WORK = """
SELECT llm_create_model('{m}', 1, 2, 16, 128, 786)
SELECT llm_init_model('{m}', 1)
SELECT llm_bpe_train('SELECT (llm_story(s)).text FROM generate_series(1, 20) AS s', 280, '{m}')
INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('d', '{{1,2,3}}', '{{2,3,4}}')
SELECT llm_train('{m}', 2, dataset => 'd', lr_max => 0.01, warmup => 1)
CALL llm_train_loop('{m}', 2, dataset => 'd', lr_max => 0.01, warmup => 1)
SELECT llm_checkpoint_save('{m}', 'x')
SELECT llm_train('{m}', 1, dataset => 'd', lr_max => 0.01, warmup => 0)
SELECT * FROM llm_replay('{m}', (SELECT min(id) FROM llm_checkpoint))
SELECT llm_checkpoint_load('{m}', (SELECT min(id) FROM llm_checkpoint))
SELECT llm_lora_add('{m}', '{m}-lora')
SELECT llm_lora_merge('{m}-lora', '{m}-merged')
SELECT llm_quantize('classroom-1', 'int8', '{m}-small')
SELECT llm_generate('It was', 3, 0, model => 'classroom-1')
SET pg_llm.autograd = on
SELECT llm_loss('{m}', '{{1,2,3}}', '{{2,3,4}}')
SET pg_llm.autograd = off
SELECT llm_backprop((SELECT max(id) FROM llm_tape), '{m}')
SELECT llm_accumulate_grads('{m}')
SELECT llm_zero_grad('{m}')
CREATE TABLE notes (i int)
"""
TABLES = """llm_model_config llm_graph llm_param llm_param_share llm_bpe_vocab llm_bpe_merges llm_bpe_config
llm_dataset llm_train_run llm_train_log llm_checkpoint llm_checkpoint_model llm_checkpoint_param
llm_run llm_tape llm_tensor_rt llm_tensor_map""".split()
# By xqb, on xqa's model `xqa` and on the teacher's `classroom-1`: refused, with an error.
REFUSED = [
    "SELECT llm_logits('{1,2}', 'xqa')",
    "SELECT llm_generate('It', 2, 0, model => 'xqa')",
    "SELECT llm_encode('abc', 'xqa')",
    "SELECT llm_train('xqa', 1, dataset => 'd')",
    "SELECT llm_train('classroom-1', 1, dataset => 'd', lr_max => 0.01, warmup => 0)",
    "SELECT llm_init_model('classroom-1', 1)",
    "SELECT llm_init_model('gpt2-small', 1)",
    "SELECT llm_create_model('xqa', 1, 2, 16, 128, 786)",
    "SELECT llm_checkpoint_load('xqa', 1)",
    "INSERT INTO llm_param_share VALUES ('xqb', 'wte.weight', 'classroom-1', 'wte.weight')",
    "INSERT INTO llm_param (model, name, data) VALUES ('gpt2-small', 'wte.weight', '[1]')",
    "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes, owner) VALUES ('t', 1, 'a', 'a', 'xqa')",
    "INSERT INTO llm_dataset (dataset, tokens, target, owner) VALUES ('d', '{1}', '{2}', 'postgres')",
    "UPDATE llm_model_config SET owner = 'xqa' WHERE model = 'xqb'",
    "UPDATE llm_dataset SET owner = 'xqa'",
    "UPDATE llm_graph SET model = 'classroom-1'",
    "ALTER TABLE llm_param DISABLE ROW LEVEL SECURITY",
    "DROP POLICY reads ON llm_param",
    "CREATE TRIGGER t BEFORE UPDATE ON llm_param EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE TABLE public.t (i int)",
    "CREATE TABLE xqa.t (i int)",
    "SELECT * FROM xqa.notes",
    "TRUNCATE llm_param",
    "SET ROLE xqa",
    "SET ROLE llm_class",
]


@pytest.fixture(scope="module")
def lesson(server):
    """The shared database, in which xqa and xqb have done all that a student does."""
    list(students.add(["xqa", "xqb"]))
    students.share(LESSON)
    students.share(LESSON)  # again changes nothing
    for name in ("xqa", "xqb"):
        with entered(server, name) as conn:
            for statement in WORK.strip().splitlines():
                conn.execute(statement.replace("{{", "{").replace("}}", "}").replace("{m}", name))
    yield server
    databases.drop_database(LESSON)
    students.remove(["xqa", "xqb"], force=True)


def entered(server, name):
    info = {**server.start().conninfo(LESSON), "user": name}
    return psycopg.connect(**info, autocommit=True)


def test_nobody_sees_anothers_rows(lesson):
    with entered(lesson, "xqb") as xqb, entered(lesson, "xqa") as xqa:
        for table in TABLES:
            rows = f"SELECT t::text FROM {table} AS t"
            mine, theirs = (str(conn.execute(rows).fetchall()) for conn in (xqb, xqa))
            assert "xqa" not in mine, table
            # LoRA copies weights under row security; byte-level tokenizers need no configuration.
            assert mine != theirs or table in ("llm_param_share", "llm_bpe_config"), table
    with pg_llm.connect(LESSON) as admin:
        owners = admin.execute("SELECT DISTINCT owner::text FROM llm_model_config ORDER BY 1").fetchall()
        assert owners == [("postgres",), ("xqa",), ("xqb",)]


@pytest.mark.parametrize("statement", REFUSED)
def test_what_a_student_may_not_do(lesson, statement):
    with entered(lesson, "xqb") as xqb, pytest.raises(psycopg.Error) as error:
        xqb.execute(statement)
    assert error.value.sqlstate[:2] in ("42", "P0", "23"), error.value


def test_changes_reach_the_own_rows_only(lesson):
    hashes = "SELECT llm_model_sha256('classroom-1'), llm_model_sha256('xqa')"
    with pg_llm.connect(LESSON) as admin, entered(lesson, "xqb") as xqb:
        before = admin.execute(hashes).fetchone()
        xqb.execute("UPDATE llm_param SET data = data * 2")
        xqb.execute("DELETE FROM llm_param WHERE model <> 'xqb'")
        xqb.execute("DELETE FROM llm_model_config WHERE model <> 'xqb'")
        xqb.execute("DELETE FROM llm_bpe_vocab; DELETE FROM llm_dataset; DELETE FROM llm_train_log")
        assert admin.execute(hashes).fetchone() == before
        for table in ("llm_bpe_vocab", "llm_dataset", "llm_train_log"):
            column = "owner" if table == "llm_dataset" else "model"
            count = f"SELECT count(*) FROM {table} WHERE {column} = 'xqa'"
            assert admin.execute(count).fetchone()[0] > 0, table
        assert admin.execute("SELECT count(*) FROM llm_bpe_vocab WHERE model = 'gpt2'").fetchone()[0] > 50000
    with entered(lesson, "xqa") as xqa:
        xqa.execute("SELECT llm_generate('It was', 2, 0, model => 'xqa')")


def test_every_table_is_covered(lesson):
    """A table of the extension that students may write has a policy, whatever is added to it."""
    query = """SELECT c.relname FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid
        AND d.classid = 'pg_class'::regclass AND d.deptype = 'e' JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE e.extname = 'pg_llm' AND c.relkind = 'r' AND NOT c.relrowsecurity ORDER BY 1"""
    with pg_llm.connect(LESSON) as admin:
        assert [name for (name,) in admin.execute(query)] == ["llm_model_version", "llm_op"]
        for table in ("llm_model_version", "llm_op"):
            right = f"SELECT has_table_privilege('xqb', '{table}', 'INSERT, UPDATE, DELETE, TRUNCATE')"
            assert admin.execute(right).fetchone() == (False,)


def test_only_an_own_database_is_shared(lesson):
    with pytest.raises(KitError, match="database xqa belongs to role xqa"):
        students.share("xqa")
