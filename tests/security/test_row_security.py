"""Row-level security by a model's owner: no function, view, copy or run reveals a hidden model."""

import psycopg
import pytest
from helpers.tiny_model import letters, make

import pg_llm

RIGHTS = """
GRANT USAGE ON SCHEMA public TO ann, ben;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ann, ben;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO ann, ben;
ALTER TABLE llm_model_config ADD owner text DEFAULT current_user;
"""
OF_MODEL = "EXISTS (SELECT FROM llm_model_config AS c WHERE c.model = {t}.{column})"
OF_RUN = "EXISTS (SELECT FROM llm_run AS r WHERE r.run = {t}.run)"
OF_CHECKPOINT = "EXISTS (SELECT FROM llm_checkpoint AS c WHERE c.id = {t}.checkpoint)"
POLICIES = {
    "llm_model_config": "owner = coalesce(nullif(current_setting('app.owner', true), ''), current_user)",
    "llm_graph": OF_MODEL,
    "llm_param": OF_MODEL,
    "llm_param_share": OF_MODEL,
    "llm_bpe_vocab": OF_MODEL,
    "llm_bpe_merges": OF_MODEL,
    "llm_bpe_config": OF_MODEL,
    "llm_train_run": OF_MODEL,
    "llm_train_log": OF_MODEL,
    "llm_checkpoint": OF_MODEL,
    "llm_checkpoint_model": OF_CHECKPOINT,
    "llm_checkpoint_param": OF_CHECKPOINT,
    "llm_dataset": "dataset LIKE current_user || '%'",
    "llm_run": "who = current_user",
    "llm_tape": OF_RUN,
    "llm_tensor_rt": OF_RUN,
    "llm_tensor_map": OF_RUN,
}
VIEWS = (
    "llm_tensor llm_tape_named llm_op_cost llm_activation llm_gradient llm_param_gradient llm_attention_map"
)
USES = [
    "SELECT llm_logits('{1,2,3}', 'secret')",
    "SELECT llm_loss('secret', '{1,2,3}', '{2,3,4}')",
    "SELECT llm_generate('abc', 3, 0, model => 'secret')",
    "SELECT text FROM llm_generate_stream('abc', 3, 0, model => 'secret')",
    "SELECT * FROM llm_beam_search('ab', 2, 3, 'secret')",
    "SELECT * FROM llm_next_tokens('ab', 3, 'secret')",
    "SELECT llm_encode('abc', 'secret')",
    "SELECT llm_decode('{1,2}', 'secret')",
    "SELECT * FROM llm_tokenize('abc', 'secret')",
    """SELECT llm_eval('secret', 'wte.weight', NULL)""",
    "SELECT llm_trace('secret', '{1,2,3}')",
    "SELECT llm_materialize_params('secret')",
    "SELECT pg_llm_autograd_map_param('secret', 'wte.weight', 1, zeros('{8}'))",
    "SELECT llm_train_step('secret', 1, lr_max => 0.01)",
    "SELECT llm_train('secret', 1, dataset => 'ben', lr_max => 0.01, warmup => 1)",
    "CALL llm_train_loop('secret', 1, dataset => 'ben', lr_max => 0.01, warmup => 1)",
    "SELECT llm_train_lock('secret')",
    "SELECT llm_reset_optimizer('secret')",
    "SELECT * FROM llm_dataset_loss('secret', 'ben')",
    "SELECT llm_checkpoint_save('secret')",
    "SELECT llm_model_sha256('secret')",
    "SELECT llm_checkpoint_load('own', 1)",
    "SELECT * FROM llm_replay('secret', 1)",
    "SELECT llm_quantize('secret', 'int8', 'stolen')",
    "SELECT llm_lora_add('secret', 'stolen')",
    "SELECT llm_lora_merge('secret', 'stolen')",
    "SELECT _llm_param_shape('secret', 'wte.weight')",
    "SELECT llm_init_model('secret', 3)",
    "SELECT * FROM llm_explain('secret', 'abc')",
    "SELECT llm_share_param('secret', 'wte.weight', 'own', 'wte.weight')",
    "SELECT llm_unshare_param('secret', 'wte.weight')",
    "SELECT llm_create_model('secret', 1, 1, 4, 8, 26)",
    "SELECT * FROM llm_perplexity('secret', 'ben')",
]


@pytest.fixture(scope="module")
def guarded(server, database):
    """Two roles with a model each; ann's has a tape, a log and a checkpoint."""
    with pg_llm.connect(database) as admin:
        for role in ("ann", "ben"):
            admin.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}")
        admin.execute(RIGHTS)
        admin.execute("DELETE FROM llm_bpe_vocab WHERE model <> 'gpt2'")
        for table, policy in POLICIES.items():
            column = "target_model" if table == "llm_param_share" else "model"
            admin.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            admin.execute(f"CREATE POLICY owner ON {table} USING ({policy.format(t=table, column=column)})")
        admin.execute("SET SESSION AUTHORIZATION ann")
        make(admin, "secret", n_layer=1)
        admin.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('ann', '{1,2,3}', '{2,3,4}')"
        )
        admin.execute("SELECT llm_train('secret', 2, dataset => 'ann', lr_max => 0.01, warmup => 1)")
        admin.execute("SELECT llm_checkpoint_save('secret', 'mine')")
        admin.execute("SELECT llm_trace('secret', '{1,2,3}', '{2,3,4}')")
        admin.execute("SET pg_llm.autograd = on; SELECT llm_loss('secret', '{1,2,3}', '{2,3,4}')")
        admin.execute("SET pg_llm.autograd = off")
        admin.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'secret')")
        admin.execute("SELECT llm_accumulate_grads('secret')")
        admin.execute("RESET SESSION AUTHORIZATION; SET SESSION AUTHORIZATION ben")
        make(admin, "own", n_layer=1, seed=7)
        admin.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('ben', '{1,2,3}', '{2,3,4}')"
        )
        admin.execute("RESET SESSION AUTHORIZATION")
    yield database
    with pg_llm.connect(database) as admin:
        admin.execute("DROP OWNED BY ann, ben; DROP ROLE ann, ben")


@pytest.fixture
def session(guarded):
    """A function that opens a session of a role."""
    opened = []

    def start(role):
        opened.append(pg_llm.connect(guarded))
        opened[-1].execute(f"SET SESSION AUTHORIZATION {role}")
        return opened[-1]

    yield start
    for conn in opened:
        conn.close()


def test_the_owner_uses_the_model(session):
    ann = session("ann")
    for use in USES[:9] + ["SELECT llm_train('secret', 1, dataset => 'ann', lr_max => 0.01, warmup => 1)"]:
        assert ann.execute(use).fetchone() is not None, use
    for view in VIEWS.split()[1:]:
        assert ann.execute(f"SELECT * FROM {view}").fetchone() is not None, view


@pytest.mark.parametrize("use", USES)
def test_nobody_else_does(session, use):
    ben = session("ben")
    with pytest.raises(psycopg.Error) as error:
        ben.execute(use)
    assert not ben.closed and error.value.sqlstate not in ("XX000", "22000"), error.value


def test_no_view_and_no_table_shows_it(session):
    ben = session("ben")
    for relation in VIEWS.split() + list(POLICIES):
        rows = ben.execute(f"SELECT * FROM {relation}").fetchall()
        assert "secret" not in str(rows), relation
    for view in VIEWS.split():
        assert ben.execute(f"SELECT * FROM {view}").fetchall() == [], view


def test_a_forged_tape_leads_to_no_weight(session):
    """A forged row in llm_tensor_map, or in llm_param_share, that names another role's parameter."""
    ben = session("ben")
    ben.execute("SET pg_llm.autograd = on; SELECT mean(llm_var('[1,2]', 'w'))")
    run = ben.execute("SELECT llm_open_run()").fetchone()[0]
    for n, name in enumerate(("wte.weight", "wpe.weight")):
        tensor = run * 1000000 + 90 + n
        ben.execute(
            "INSERT INTO llm_tensor_rt (id, run, name, shape, requires_grad) "
            "VALUES (%s, %s, %s, '{26,8}', true)",
            (tensor, run, name),
        )
        ben.execute(
            "INSERT INTO llm_tensor_map (id, run, model, name) VALUES (%s, %s, 'secret', %s)",
            (tensor, run, name),
        )
    assert ben.execute("SELECT data FROM llm_tensor").fetchall() == [(None,), (None,)]
    ben.execute(
        "INSERT INTO llm_tape (id, run, op, inputs, outputs) "
        "VALUES (%(o)s, %(r)s, 'mean', ARRAY[%(i)s]::bigint[], ARRAY[%(o)s]::bigint[])",
        {"o": run * 1000000 + 95, "r": run, "i": run * 1000000 + 90},
    )
    ben.execute(
        "INSERT INTO llm_tensor_rt (id, run, shape, data, requires_grad) VALUES (%s, %s, '{}', '1', true)",
        (run * 1000000 + 95, run),
    )
    with pytest.raises(psycopg.Error, match="without data"):
        ben.execute("SELECT llm_backprop(%s, 'own')", [run * 1000000 + 95])
    assert ben.execute("SELECT * FROM llm_gradient").fetchall() == []
    ben.execute("SET pg_llm.autograd = off")
    admin = session("postgres")
    with admin.transaction(force_rollback=True):
        admin.execute("DELETE FROM llm_param WHERE model = 'own' AND name = 'wte.weight'")
        admin.execute("INSERT INTO llm_param_share VALUES ('own', 'wte.weight', 'secret', 'wte.weight')")
        admin.execute("SET SESSION AUTHORIZATION ben")
        with pytest.raises(psycopg.errors.UndefinedObject, match="no weights for 1 of its parameters"):
            admin.execute("SELECT llm_logits('{1}', 'own')")


@pytest.mark.parametrize("share", ["on", "off"])
def test_a_copy_in_memory_hides_what_the_rows_hide(session, share):
    """For another role, by a setting that a policy reads, by a changed policy: no version is raised."""
    conn, admin = session("ann"), session("postgres")
    conn.execute(f"SET pg_llm.share_weights = {share}")
    use, encode = USES[0], USES[6]
    expected = conn.execute(use).fetchone()[0].tolist()
    conn.execute(encode)

    def hidden():
        for query in (use, encode):
            with pytest.raises(psycopg.Error), conn.transaction():
                conn.execute(query)

    def seen():
        assert conn.execute(use).fetchone()[0].tolist() == expected
        conn.execute(encode)

    conn.execute("SET SESSION AUTHORIZATION ben")
    hidden()
    conn.execute("SET app.owner = 'ann'")
    seen()
    conn.execute("SET app.owner = ''")
    hidden()
    conn.execute("SET SESSION AUTHORIZATION ann")
    seen()
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        seen()
        conn.execute("SET app.owner = 'ben'")
        hidden()
        conn.execute("SET app.owner = ''")
        seen()
    for table in ("llm_param", "llm_bpe_vocab"):
        admin.execute(f"CREATE POLICY no ON {table} AS RESTRICTIVE USING (model <> 'secret')")
    hidden()
    for table in ("llm_param", "llm_bpe_vocab"):
        admin.execute(f"DROP POLICY no ON {table}")
    seen()
    # one row of a tokenizer is hidden, not all
    admin.execute("CREATE POLICY no ON llm_bpe_vocab AS RESTRICTIVE USING (token <> 'b')")
    with pytest.raises(psycopg.Error):
        conn.execute(encode)
    admin.execute("DROP POLICY no ON llm_bpe_vocab")
    seen()


def test_locks_are_for_those_who_may_change_a_model(guarded, session):
    """A reader cannot block training: not by the kit's lock, not by an advisory lock of the same key."""
    ann, ben, admin = session("ann"), session("ben"), session("postgres")
    admin.execute("CREATE POLICY all_read ON llm_param FOR SELECT USING (true)")
    try:
        assert ben.execute("SELECT count(*) FROM llm_param WHERE model = 'secret'").fetchone()[0] > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row security keeps role"):
            ben.execute("SELECT llm_train_lock('secret', true)")
        ben.execute("SELECT llm_train_lock('own')")
        letters(admin, "held")
        ben.execute(
            "SELECT pg_advisory_lock(hashtextextended('pg_llm secret', 0)), "
            "pg_advisory_lock(hashtextextended('secret', 0))"
        )
        ann.execute("SELECT llm_train('secret', 1, dataset => 'ann', lr_max => 0.01, warmup => 1)")
    finally:
        admin.execute("DROP POLICY all_read ON llm_param")


def test_a_share_of_another_roles_parameter_is_refused(session):
    """Otherwise a role could take the training lock of a hidden model, and block every change of it."""
    ben = session("ben")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not change parameter"):
        ben.execute("INSERT INTO llm_param_share VALUES ('own', 'wte.weight', 'secret', 'wte.weight')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row security keeps role"):
        ben.execute("SELECT llm_train_lock('of the future')")


def test_rights_are_looked_at_within_a_snapshot(session):
    """A tokenizer cached for a snapshot, whose tables become unreadable in the meantime."""
    conn, admin = session("ann"), session("postgres")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert conn.execute("SELECT llm_encode('abc', 'secret')").fetchone() == ([0, 1, 2],)
        admin.execute("REVOKE SELECT ON llm_bpe_vocab FROM ann, PUBLIC")
        conn.execute("SELECT llm_decode('{0,1,2}', 'secret')")
    admin.execute("GRANT SELECT ON llm_bpe_vocab TO ann, PUBLIC")
