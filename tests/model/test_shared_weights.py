"""Weights shared in memory by all sessions: never stale, never another model's, and removed when unused."""

import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import psycopg
import pytest
from helpers.shared_copies import TOKENS, files, folder_of, mapped, wait_until
from helpers.tiny_model import logits, make
from psycopg import sql

import pg_llm

DOUBLE = "UPDATE llm_param SET data = data * 2::real::tensor WHERE model = %s AND name = 'wte.weight'"
# the version that a statement sees, and its result
SEEN = "SELECT (SELECT version FROM llm_model_version WHERE model = 'm'), md5(llm_logits(%s, 'm')::bytea)"


def bits(conn, model="m"):
    return logits(conn, model, TOKENS).tobytes()


def private(conn, model="m"):
    """The same computed with a private copy."""
    conn.execute("SET pg_llm.share_weights = off")
    try:
        return bits(conn, model)
    finally:
        conn.execute("RESET pg_llm.share_weights")


@pytest.fixture
def m(conn):
    """The connection, with a new model "m"."""
    conn.execute("DELETE FROM llm_model_config WHERE model IN ('m', 'other', 'third')")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model IN ('m', 'other')")
    make(conn, "m", d_model=128)
    assert files(conn) == []
    return conn


# ---- one copy, the same bits ----


def test_one_copy_for_all_sessions(m, connect):
    sessions = [m, connect(), connect()]
    query = "SELECT llm_generate('abc', 5, 0, model => 'm')"
    expected = private(m), m.execute("SET pg_llm.share_weights = off").execute(query).fetchone()
    m.execute(query)
    assert files(m) == [] and mapped(m) == {}
    m.execute("RESET pg_llm.share_weights")
    for session in sessions:
        assert (bits(session), session.execute(query).fetchone()) == expected
    weights, tokenizer = files(m)
    inodes = {(folder_of(m) / name).stat().st_ino for name in (weights, tokenizer)}
    for name in (weights, tokenizer):
        status = (folder_of(m) / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o600 and status.st_uid == folder_of(m).stat().st_uid
    for session in sessions:
        assert len(mapped(session)) == 2 and set(mapped(session).values()) == {"r--s"}
        assert {os.stat(path).st_ino for path in mapped(session)} == inodes
    assert not [f for f in folder_of(m).iterdir() if f.name.endswith(".new")]


def test_small_models_stay_private(m):
    m.execute("SELECT llm_create_model('other', 1, 1, 32, 16, 26), llm_init_model('other', 1)")
    assert bits(m, "other") == private(m, "other")
    assert files(m) == [] and mapped(m) == {}


def test_every_instruction_set_reads_the_same_copy(m, connect):
    expected, levels = bits(m), []
    for level in ("scalar", "avx2", "avx512"):
        session = connect()
        try:
            session.execute(f"SET pg_llm.isa = {level}")
        except psycopg.errors.InvalidParameterValue:
            continue
        assert bits(session) == expected == private(session)
        levels.append(level)
        m.execute(f"SET pg_llm.isa = {level}")  # written by this level, read by the others
        m.execute(DOUBLE, ["m"])
        expected = bits(m)
    m.execute("RESET pg_llm.isa")
    assert levels and bits(m) == expected and len(files(m)) == 1


def test_sessions_that_begin_at_once_make_one_copy(m, connect):
    sessions = [connect() for _ in range(6)]
    barrier, results = threading.Barrier(len(sessions)), []

    def first(session):
        barrier.wait()
        results.append(bits(session))

    run([threading.Thread(target=first, args=[s]) for s in sessions])
    assert set(results) == {private(m)} and len(results) == len(sessions)
    assert [len(mapped(s)) for s in sessions] == [1] * len(sessions)
    assert len({os.stat(path).st_ino for s in sessions for path in mapped(s)}) == 1


def run(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


@pytest.mark.slow
def test_memory_limit_counts_private_copies(m):
    m.execute("SELECT llm_create_model('other', 6, 8, 512, 16, 26), llm_init_model('other', 1)")  # 75 MB
    try:
        m.execute("SET pg_llm.memory_limit = '64MB'; SET pg_llm.share_weights = off")
        with pytest.raises(psycopg.errors.OutOfMemory):
            bits(m, "other")
        m.execute("SET pg_llm.share_weights = on")
        shared = bits(m, "other")
        m.execute("RESET pg_llm.memory_limit")
        assert private(m, "other") == shared
    finally:
        m.execute("RESET pg_llm.memory_limit; RESET pg_llm.share_weights")


# ---- never stale ----


@pytest.mark.slow
def test_updates_while_others_generate(m, connect):
    """Each statement uses the weights of its own snapshot; no other session sees rolled-back ones."""
    stop, seen, mine, lost = threading.Event(), [], [], []
    repeatable = connect()
    repeatable.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    first = repeatable.execute(SEEN, [TOKENS]).fetchone()
    kept = []

    def generate(session, rows):
        while not stop.is_set():
            rows.append(session.execute(SEEN, [TOKENS]).fetchone())

    def change():
        try:
            for i in range(40):
                m.execute("BEGIN")
                m.execute("UPDATE llm_param SET data = data * 1.25::real::tensor WHERE model = 'm'")
                inside = m.execute(SEEN, [TOKENS]).fetchone()
                if i % 4 == 3:
                    m.execute("ROLLBACK")
                    lost.append(inside)
                else:
                    m.execute("COMMIT")
                    mine.append(inside)
                    assert m.execute(SEEN, [TOKENS]).fetchone() == inside
        finally:
            stop.set()

    others = [threading.Thread(target=generate, args=[connect(), seen]) for _ in range(3)]
    run(
        [*others, threading.Thread(target=generate, args=[repeatable, kept]), threading.Thread(target=change)]
    )
    assert set(kept) == {first}
    assert set(seen) <= {first, *mine} and len(set(seen)) > 3
    assert not set(lost) & set(seen)
    repeatable.execute("COMMIT")
    last = mine[-1]
    assert repeatable.execute(SEEN, [TOKENS]).fetchone() == last == m.execute(SEEN, [TOKENS]).fetchone()
    private(m)
    assert m.execute(SEEN, [TOKENS]).fetchone() == last
    assert len(files(m)) == 1


def test_what_a_transaction_has_changed_stays_its_own(m, connect):
    other = connect()
    before = bits(m)
    (copy,) = files(m)
    m.execute("BEGIN")
    m.execute(DOUBLE, ["m"])
    changed = bits(m)
    assert changed != before and mapped(m) == {} and files(m) == [copy]
    assert bits(other) == before and len(mapped(other)) == 1
    m.execute("ROLLBACK")
    assert bits(m) == before and files(m) == [copy] and len(mapped(m)) == 1
    m.execute("BEGIN")
    m.execute(DOUBLE, ["m"])
    assert bits(m) == changed
    m.execute("COMMIT")
    assert files(m) == []  # no session needs the old one
    assert bits(m) == changed == bits(other)
    assert len(files(m)) == 1 and mapped(m).keys() == mapped(other).keys()
    m.execute("BEGIN; SAVEPOINT a")
    m.execute(DOUBLE, ["m"])
    m.execute("ROLLBACK TO a")
    assert bits(m) == changed and mapped(m) == {}
    m.execute("COMMIT")
    assert bits(m) == changed and len(mapped(m)) == 1


def test_an_old_snapshot_makes_no_copy_for_others(m, connect):
    """No later snapshot sees its version; it uses an existing copy or private memory."""
    other, third = connect(), connect()
    for session in (other, third):
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT 1 FROM llm_model_version")
    before = bits(m)
    assert bits(third) == before and len(mapped(third)) == 1
    m.execute(DOUBLE, ["m"])
    after = bits(m)
    (copy,) = files(m)
    assert bits(other) == before and mapped(other) == {}
    assert bits(third) == before  # the file is removed, the memory is still mapped
    assert files(m) == [copy] and bits(m) == after
    for session in (other, third):
        session.execute("COMMIT")
        assert bits(session) == after and mapped(session).keys() == mapped(m).keys()


def test_parameters_of_another_model(m, connect):
    """A copy follows the models whose parameters it uses."""
    m.execute("SELECT llm_create_model('other', 2, 2, 128, 16, 26)")
    m.execute(
        "INSERT INTO llm_param_share SELECT 'other', name, 'm', name FROM llm_graph "
        "WHERE model = 'other' AND op = 'param'"
    )
    session = connect()
    assert bits(session, "other") == bits(m) and len(files(m)) == 2
    m.execute(DOUBLE, ["m"])
    assert files(m) == []
    assert bits(session, "other") == bits(m) == private(m)
    m.execute("DELETE FROM llm_model_config WHERE model = 'other'")


def test_tokenizers_follow_their_rows(m, connect):
    other = connect()
    encode = "SELECT llm_encode('abc', 'm')"
    assert m.execute(encode).fetchone() == other.execute(encode).fetchone() == ([0, 1, 2],)
    assert len(files(m, "t")) == 1
    m.execute("BEGIN")
    m.execute("UPDATE llm_bpe_vocab SET token_id = token_id + 100 WHERE model = 'm'")
    assert m.execute(encode).fetchone() == ([100, 101, 102],)
    assert other.execute(encode).fetchone() == ([0, 1, 2],)
    m.execute("COMMIT")
    assert files(m) == []
    for session in (m, other):
        assert session.execute(encode).fetchone() == ([100, 101, 102],)
        assert session.execute("SELECT llm_decode('{102,100}', 'm')").fetchone() == ("ca",)
        assert len(mapped(session)) == 1
    m.execute("SET debug_parallel_query = on")  # in a worker
    fresh = connect()
    fresh.execute("SET debug_parallel_query = on")
    m.execute("UPDATE llm_bpe_vocab SET token_id = token_id + 100 WHERE model = 'm'")
    for session in (fresh, m, fresh):
        assert session.execute(encode).fetchone() == ([200, 201, 202],)
    m.execute("RESET debug_parallel_query")
    m.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
    with pytest.raises(psycopg.errors.UndefinedObject, match='no tokenizer for model "m"'):
        other.execute(encode)


@pytest.mark.slow
def test_extension_created_anew(server):
    """Versions start again, although the database is the same."""
    with pg_llm.connect(fresh=True) as conn:
        results = set()
        for seed in (1, 2, 3):
            conn.execute("DROP EXTENSION pg_llm CASCADE; CREATE EXTENSION pg_llm")
            make(conn, "m", d_model=128, seed=seed)
            seen = conn.execute(SEEN, [TOKENS]).fetchone()
            results.add(seen)
            assert len(files(conn)) == 1
            with pg_llm.connect(conn.info.dbname) as other:
                assert other.execute(SEEN, [TOKENS]).fetchone() == seen and len(mapped(other)) == 1
        assert len(results) == 3 and len({version for version, _ in results}) == 1


# ---- isolation ----


@pytest.mark.slow
def test_models_of_the_same_name_in_two_databases(m):
    """Also if one database is a copy of the other, row for row."""
    base = m.info.dbname
    bits(m)
    here = files(m)
    with psycopg.connect(**conninfo(m, "postgres"), autocommit=True) as admin:
        oid = m.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()[0]
        (twin,) = (f"{base}_twin",)
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(twin)))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
            [base, m.info.backend_pid],
        )
        m.close()
        time.sleep(0.2)
        for _ in range(50):
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                admin.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                        sql.Identifier(twin), sql.Identifier(base)
                    )
                )
                break
            time.sleep(0.1)
        with pg_llm.connect(twin) as there, pg_llm.connect(base) as here_again:
            assert files(there) == []
            same = bits(here_again)
            assert bits(there) == same and files(there) != here == files(here_again)
            there.execute(DOUBLE, ["m"])
            assert bits(there) != same == bits(here_again)
            here_again.execute("UPDATE llm_param SET data = -data WHERE model = 'm'")
            assert len({bits(there), bits(here_again), same}) == 3
            assert bits(there) == private(there) and bits(here_again) == private(here_again)
            left = files(there)
            (there_oid,) = there.execute(
                "SELECT oid FROM pg_database WHERE datname = current_database()"
            ).fetchone()
        assert there_oid != oid and left
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(twin)))
        with pg_llm.connect(base) as here_again:  # the next copy made anywhere removes it
            here_again.execute(DOUBLE, ["m"])
            bits(here_again)
            assert files(here_again, database=there_oid) == []


def conninfo(conn, dbname):
    return {"host": conn.info.host, "port": conn.info.port, "user": conn.info.user, "dbname": dbname}


READ = "llm_model_config, llm_graph, llm_param, llm_param_share, llm_bpe_vocab, llm_bpe_merges"


@pytest.fixture
def role(conn):
    name = "llm_shared_role"
    with contextlib.suppress(psycopg.errors.UndefinedObject):
        conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
    conn.execute(f"CREATE ROLE {name}")
    yield name
    conn.execute("RESET ROLE")
    conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_roles_without_rights(m, role, connect):
    other = connect()
    before = bits(m)
    encode = "SELECT llm_encode('abc', 'm')"
    m.execute(encode)
    for table in READ.split(", "):
        m.execute(f"GRANT SELECT ON {READ} TO {role}; REVOKE ALL ON {table} FROM PUBLIC, {role}")
        for session in (other, m):
            session.execute(f"SET ROLE {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=table):
                session.execute(encode) if "bpe" in table else bits(session)
            session.execute("RESET ROLE")
    m.execute(f"GRANT SELECT ON {READ} TO {role}")
    other.execute(f"SET ROLE {role}")
    assert bits(other) == before and other.execute(encode).fetchone() == ([0, 1, 2],)
    assert len(mapped(other)) == 2
    m.execute(f"REVOKE SELECT ON llm_param FROM {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="llm_param"):
        bits(other)
    other.execute("RESET ROLE")


def test_row_security(m, role, connect):
    """A role that may not see every row neither gets the shared copy nor makes one."""
    hidden, first = connect(), connect()
    m.execute(f"GRANT SELECT ON {READ} TO {role}")
    m.execute(
        "ALTER TABLE llm_param ENABLE ROW LEVEL SECURITY; ALTER TABLE llm_bpe_vocab ENABLE ROW LEVEL SECURITY"
    )
    m.execute(f"CREATE POLICY few ON llm_param TO {role} USING (name <> 'ln_f.bias')")
    m.execute(f"CREATE POLICY few ON llm_bpe_vocab TO {role} USING (token <> 'c')")
    try:
        for session in (hidden, first, hidden):
            session.execute(f"SET ROLE {role}")
            with pytest.raises(psycopg.errors.UndefinedObject, match='"ln_f.bias"'):
                bits(session)
            with pytest.raises(psycopg.errors.InvalidParameterValue, match='"c" .byte 63. at position 3'):
                session.execute("SELECT llm_encode('abc', 'm')")
            assert mapped(session) == {}
            session.execute("RESET ROLE")
            if session is hidden:
                assert session.execute("SELECT llm_encode('abc', 'm')").fetchone() == ([0, 1, 2],)
                assert bits(session) == bits(m)  # a copy exists now, made by a role that sees all rows
                assert len(mapped(session)) == 2 == len(files(m))
    finally:
        m.execute("DROP POLICY few ON llm_param; DROP POLICY few ON llm_bpe_vocab")
        m.execute("ALTER TABLE llm_param DISABLE ROW LEVEL SECURITY")
        m.execute("ALTER TABLE llm_bpe_vocab DISABLE ROW LEVEL SECURITY")


# ---- removal of unused copies ----


def test_a_model_that_ends(m, connect):
    other = connect()
    before = bits(m)
    with m.transaction(force_rollback=True):
        m.execute("DELETE FROM llm_model_config WHERE model = 'm'")
    assert len(files(m)) == 1 and bits(other) == before
    other.execute("BEGIN")
    other.execute(
        "DECLARE g CURSOR FOR SELECT text FROM llm_generate_stream('ab', 9, 0, model => 'm', eos => -1)"
    )
    start = other.execute("FETCH 3 FROM g").fetchall()
    m.execute("DELETE FROM llm_model_config WHERE model = 'm'")
    assert files(m, "m") == []
    rest = other.execute("FETCH ALL FROM g").fetchall()  # in memory until it ends
    assert len(start) == 3 and len(rest) == 6
    other.execute("COMMIT")
    with pytest.raises(psycopg.errors.UndefinedObject):
        bits(other)
    m.execute("SELECT llm_create_model('m', 2, 2, 128, 16, 26), llm_init_model('m', 2)")
    bits(m)
    m.execute("BEGIN; TRUNCATE llm_param")
    assert len(files(m, "m")) == 1
    m.execute("COMMIT")
    assert files(m, "m") == []


def test_copies_that_nobody_uses_for_an_hour(m, connect):
    make(m, "other", d_model=128)
    user = connect()
    bits(user)
    bits(m)
    bits(m, "other")
    (second,) = {os.path.basename(p) for p in mapped(m)} - {os.path.basename(p) for p in mapped(user)}
    ago = time.time() - 7200
    for name in files(m):
        os.utime(folder_of(m) / name, (ago, ago))
    third = connect()
    m.execute("SELECT llm_create_model('third', 2, 2, 128, 16, 26), llm_init_model('third', 1)")
    process = Path(f"/proc/{m.info.backend_pid}")
    m.close()
    assert wait_until(lambda: not process.exists())  # its locks are released with it
    bits(third, "third")
    assert second not in files(third) and len(files(third)) == 2
    assert bits(third) == bits(user) and mapped(user).keys() <= mapped(third).keys()


def test_a_long_session_keeps_nothing(m):
    pid = m.info.backend_pid
    for i in range(60):
        m.execute(DOUBLE, ["m"])
        bits(m)
        if i == 20:
            before = (
                len(os.listdir(f"/proc/{pid}/fd")),
                len(Path(f"/proc/{pid}/maps").read_text().splitlines()),
            )
    after = len(os.listdir(f"/proc/{pid}/fd")), len(Path(f"/proc/{pid}/maps").read_text().splitlines())
    assert after[0] <= before[0] and after[1] <= before[1] + 20
    assert len(mapped(m)) == 1 and len(files(m)) == 1
    for _ in range(20):  # weights are missing: the incomplete file is removed
        m.execute("UPDATE llm_param SET data = NULL WHERE model = 'm' AND name = 'ln_f.bias'")
        with pytest.raises(psycopg.errors.UndefinedObject):
            bits(m)
    assert files(m) == [] and len(os.listdir(f"/proc/{pid}/fd")) <= before[0]


def test_a_session_of_many_models(m):
    names = [f"many{i}" for i in range(36)]
    m.execute("SELECT llm_init_model('m', 1)")
    m.execute("BEGIN")
    for name in names:
        m.execute("SELECT llm_create_model(%s, 2, 2, 128, 16, 26)", [name])
        m.execute(
            "INSERT INTO llm_param_share SELECT %s, name, 'm', name FROM llm_param WHERE model = 'm'", [name]
        )
    m.execute("COMMIT")
    expected = bits(m)
    for name in names:
        assert bits(m, name) == expected
    assert len(mapped(m)) == 32 and len(files(m)) == 37
    m.execute("DELETE FROM llm_model_config WHERE model LIKE 'many%'")
    assert len(files(m)) == 1
