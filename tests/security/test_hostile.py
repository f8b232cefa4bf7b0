"""Hostile arguments, little memory, long sessions: clear errors, and the session continues."""

import os
from pathlib import Path

import psycopg
import pytest
from helpers.tiny_model import logits, make

import pg_llm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def m(server, database):
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=2, n_head=2, d_model=64, n_positions=512)
        make(conn, "n", n_layer=2, n_head=2, d_model=64, n_positions=512, seed=2)
        yield conn


def rss(conn) -> int:
    """Resident memory of a session's server process in MB."""
    pages = Path(f"/proc/{conn.info.backend_pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20


# ---- memory ----


@pytest.fixture
def limit(m):
    """A function that sets pg_llm.memory_limit for the test."""
    yield lambda size: m.execute(f"SET pg_llm.memory_limit = '{size}'")
    m.execute("RESET pg_llm.memory_limit")


TOO_MUCH = [
    "SELECT llm_logits(array_fill(1, ARRAY[100, 500]), 'm')",
    "SELECT llm_loss('m', array_fill(1, ARRAY[100, 500]), array_fill(1, ARRAY[100, 500]))",
    "SELECT * FROM llm_beam_search('ab', 250, 500, 'm')",
    "SELECT _llm_init_tensor('x', ARRAY[5000, 5000], 'normal', 1, 1)",
    "SELECT randn(ARRAY[5000, 5000], 1)",
    "SELECT zeros(ARRAY[2000, 2000]) @ zeros(ARRAY[2000, 2000])",
    "SELECT stack(zeros(ARRAY[100, 1000]) ORDER BY i) FROM generate_series(1, 1000) AS i",
    "SELECT array_agg(zeros(ARRAY[100, 1000])) FROM generate_series(1, 1000)",
    "SELECT array_agg(zeros(ARRAY[100])) FROM generate_series(1, 200000)",
    "SELECT array_fill(1::numeric, ARRAY[2000000])::tensor",
    "SELECT llm_generate('ab', 3, model => 'wide')",
    "SELECT * FROM llm_generate_stream('ab', 3, model => 'wide')",
]


def test_a_small_limit_is_an_error_and_nothing_leaks(m, limit):
    make(m, "wide", n_layer=1, n_head=1, d_model=1024, n_positions=16)  # 50 MB
    expected = logits(m, "m", [1, 2, 3])
    limit("32MB")
    before = 0
    for n in range(9 * len(TOO_MUCH) + 1):  # ends after the call after which `before` was read
        call = TOO_MUCH[n % len(TOO_MUCH)]
        with pytest.raises(psycopg.errors.OutOfMemory) as error:
            m.execute(call)
        assert error.value.sqlstate == "53200" and "pg_llm.memory_limit" in error.value.diag.message_hint, (
            call
        )
        if n == 3 * len(TOO_MUCH):
            before = rss(m)
    assert rss(m) <= before + 10
    assert (logits(m, "m", [1, 2, 3]) == expected).all()


def test_models_that_nobody_uses_make_room(m, limit):
    """Each fits alone: the least recently used is evicted, whatever needs the memory."""
    for n in range(4):
        make(m, f"room{n}", n_layer=1, n_head=1, d_model=768, n_positions=16)  # 28 MB each
    limit("80MB")
    before = [logits(m, f"room{n}", [1]) for n in range(4)]
    assert all((logits(m, f"room{n}", [1]) == before[n]).all() for n in (3, 0, 2, 1, 1, 3))
    assert m.execute("SELECT shape(zeros(ARRAY[4000, 3000]))").fetchone() == ([4000, 3000],)  # 46 MB
    assert (logits(m, "room1", [1]) == before[1]).all()
    # but not one that a stream uses
    with m.transaction():
        m.execute("DECLARE c CURSOR FOR SELECT text FROM llm_generate_stream('ab', 9, 0, model => 'room1')")
        rows = m.execute("FETCH 2 FROM c").fetchall()
        m.execute("SELECT shape(zeros(ARRAY[3000, 3000]))")
        rows += m.execute("FETCH ALL FROM c").fetchall()
    expected = m.execute("SELECT text FROM llm_generate_stream('ab', 9, 0, model => 'room1')").fetchall()
    assert rows == expected
    m.execute("DELETE FROM llm_model_config WHERE model LIKE 'room%'")


def test_only_the_superuser_raises_the_limit(m):
    m.execute("DROP ROLE IF EXISTS llm_test_limit; CREATE ROLE llm_test_limit; SET ROLE llm_test_limit")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            m.execute("SET pg_llm.memory_limit = '1TB'")
    finally:
        m.execute("RESET ROLE; DROP ROLE llm_test_limit")


def test_a_long_session_does_not_grow(m):
    """500 different models, and 200 versions of one."""
    expected = [logits(m, name, [1, 2]) for name in "mn"]
    for _ in range(20):
        logits(m, "m", [1, 2]), logits(m, "n", [1, 2])
    before = rss(m)
    for _ in range(500):
        m.execute("SELECT llm_logits(ARRAY[1, 2], 'm') = llm_logits(ARRAY[1, 2], 'n')")
    for n in range(200):
        m.execute("UPDATE llm_param SET step = %s WHERE model = 'm' AND name = 'wte.weight'", [n])
        m.execute("SELECT llm_generate('ab', 3, 0, model => 'm')")
    assert rss(m) <= before + 8
    assert all((logits(m, name, [1, 2]) == x).all() for name, x in zip("mn", expected, strict=True))


# ---- arguments ----

NAMES = ["", " ", "'; DROP TABLE llm_param; --", '"', "\\", "\x01\x1b[31m\n", "𝔪", "%s%n%d", "x" * 1000000]
NUMBERS = [0, -1, 1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), "NULL"]
FLOATS = [0, -0.0, -1, 1e-320, 1e308, "nan", "inf", "-inf", "NULL"]


def calls():
    """One hostile argument at a time in an otherwise harmless call."""
    for name in NAMES:
        yield "SELECT llm_logits(ARRAY[1], %s)", [name]
        yield "SELECT llm_loss(%s, ARRAY[1], ARRAY[1])", [name]
        yield "SELECT llm_eval('m', %s, '{}')", [name]
        yield "SELECT llm_eval(%s, 'h.0', '{}')", [name]
        yield "SELECT llm_generate('ab', 2, model => %s)", [name]
        yield "SELECT llm_generate(%s, 2, model => 'm')", [name]
        yield "SELECT * FROM llm_generate_stream(%s, 2, model => 'm')", [name]
        yield "SELECT * FROM llm_generate_stream('ab', 2, model => %s)", [name]
        yield "SELECT * FROM llm_beam_search(%s, 2, 2, 'm')", [name]
        yield "SELECT * FROM llm_next_tokens(%s, 2, 'm')", [name]
        yield "SELECT * FROM llm_param_shapes(%s)", [name]
        yield "SELECT _llm_init_tensor(%s, ARRAY[2], 'normal', 1, 1)", [name]
        yield "SELECT _llm_init_tensor('x', ARRAY[2], %s, 1, 1)", [name]
        yield "SELECT llm_init_model(%s, 1)", [name]
        yield "SELECT _llm_write_graph(%s)", [name]
        yield "SELECT set_config('pg_llm.default_model', %s, true), llm_generate('ab', 2)", [name[:1000]]
    for n in NUMBERS:
        yield f"SELECT llm_generate('ab', ({n})::int, model => 'm')", None
        yield f"SELECT llm_generate('ab', 2, 1, ({n})::int, model => 'm')", None
        yield f"SELECT llm_generate('ab', 2, model => 'm', eos => ({n})::int)", None
        yield f"SELECT llm_generate('ab', 2, model => 'm', seed => ({n})::bigint)", None
        yield f"SELECT * FROM llm_generate_stream('ab', ({n})::int, model => 'm') LIMIT 2", None
        yield f"SELECT * FROM llm_beam_search('ab', ({n})::int, 2, 'm')", None
        yield f"SELECT * FROM llm_beam_search('ab', 2, ({n})::int, 'm')", None
        yield f"SELECT * FROM llm_next_tokens('ab', ({n})::int, 'm')", None
        yield f"SELECT llm_logits(ARRAY[({n})::int], 'm')", None
        yield f"SELECT llm_logits(ARRAY[1], 'm', ARRAY[({n})::int])", None
        yield f"SELECT llm_loss('m', ARRAY[1], ARRAY[({n})::int])", None
        yield f"""SELECT llm_eval('m', 'h.0', '{{"tokens": [{n}]}}')""", None
        yield f"SELECT _llm_init_tensor('x', ARRAY[({n})::int, 2], 'normal', 1, 1)", None
        yield f"SELECT _llm_init_tensor('x', ARRAY[2], 'normal', 1, ({n})::bigint)", None
        yield f"SELECT llm_init_model('m', ({n})::bigint)", None
        yield f"SELECT pg_llm_sample('[1,2,3]'::tensor, 1, ({n})::int, 1, 1)", None
        for place in range(5):
            dims = ["1", "1", "4", "8", "26"]
            dims[place] = f"({n})::int"
            yield f"SELECT llm_create_model('new', {', '.join(dims)}), llm_init_model('new', 1)", None
    for x in FLOATS:
        yield f"SELECT llm_generate('ab', 2, ('{x}')::float8, model => 'm')".replace("'NULL'", "NULL"), None
        yield (
            f"SELECT llm_generate('ab', 2, 1, 5, ('{x}')::float8, model => 'm')".replace("'NULL'", "NULL"),
            None,
        )
        yield f"SELECT pg_llm_sample('[1,2]'::tensor, ('{x}')::float8)".replace("'NULL'", "NULL"), None
        yield f"SELECT pg_llm_sample('[1,2]'::tensor, 1, 1, ('{x}')::float8)".replace("'NULL'", "NULL"), None
        yield f"SELECT pg_llm_sample('[1,{x}]'::tensor)", None
        yield (
            f"SELECT _llm_init_tensor('x', ARRAY[9], 'normal', ('{x}')::float8, 1)".replace("'NULL'", "NULL"),
            None,
        )
    yield "SELECT llm_logits('[-2147483648:-2147483647]={1,2}', 'm')", None
    yield "SELECT llm_logits('[2147483646:2147483647]={1,2}', 'm')", None
    yield "SELECT llm_logits(array_fill(1, ARRAY[1, 1, 1, 1, 1, 1]), 'm')", None
    yield "SELECT llm_logits(array_fill(NULL::int, ARRAY[9]), 'm')", None
    yield "SELECT llm_logits(array_fill(1, ARRAY[1000000]), 'm')", None
    yield "SELECT llm_logits(array_fill(1, ARRAY[20000, 1]), 'm', NULL)", None
    yield "SELECT llm_generate(repeat('ab', 500000), 2, model => 'm')", None
    yield "SELECT llm_generate(repeat(chr(128514), 250000), 2, model => 'm')", None
    yield "SELECT pg_llm_sample(''::bytea)", None
    yield "SELECT pg_llm_sample('\\x01'::bytea)", None
    yield "SELECT pg_llm_sample(zeros(ARRAY[0]))", None
    yield "SELECT pg_llm_sample('5'::tensor)", None
    yield "SELECT pg_llm_sample('[[1]]'::tensor)", None
    yield "SELECT pg_llm_sample('[nan]'::tensor)", None
    yield "SELECT pg_llm_sample('[-inf,-inf]'::tensor)", None
    for json in (
        "[" * 6000 + "]" * 6000,
        '{"tokens": ' + "[" * 6000 + "]" * 6000 + "}",
        '{"tokens": ' + '{"a":' * 3000 + "1" + "}" * 3000 + "}",
        '{"' + "k" * 1000000 + '": 1}',
        '{"tokens": [' + "1," * 300000 + "1]}",
        '{"tokens": "[[' + "1," * 300000 + '1]]"}',
        '{"tokens": [1e400]}', '{"tokens": [1e-400]}', '{"tokens": ["\\u0001"]}', '{"tokens": ""}',
        '{"": [1]}', '{"tokens": [1], "positions": [1e9]}', '{"tokens": [[1],[2]], "positions": []}',
    ):  # fmt: skip
        yield "SELECT llm_eval('m', 'h.0', %s)", [json]


def test_one_hostile_argument_at_a_time(m):
    """Each gives a result or an error with a specific SQLSTATE; never 'internal error', never a crash."""
    m.execute("SET statement_timeout = '20s'")
    n = refused = 0
    for query, arguments in calls():
        n += 1
        try:
            with m.transaction(force_rollback=True):
                m.execute(query, arguments)
        except psycopg.Error as error:
            refused += 1
            assert error.sqlstate not in (None, "XX000", "57014", "58000"), (
                query,
                str(arguments)[:80],
                error,
            )
            message = error.diag.message_primary
            assert message and len(message) < 2000, (query, len(message))
    m.execute("RESET statement_timeout")
    print(f"{n} calls, {refused} refused")
    assert n > 300 and refused > n / 2
    assert logits(m, "m", [1, 2]).shape == (2, 26)


HUGE_GRAPHS = {
    "a long chain": "'n' || i, 'relu', ARRAY['n' || i - 1], '{}'::jsonb FROM generate_series(1, 19990) AS i",
    "and backwards": "'n' || i, 'relu', ARRAY['n' || i - 1], '{}'::jsonb "
    "FROM generate_series(3000, 1, -1) AS i",
    "too many nodes": "'n' || i, 'relu', ARRAY['n0'], '{}'::jsonb FROM generate_series(1, 30000) AS i",
    "many inputs": "'many', 'add', array_fill('n0'::text, ARRAY[100000]), '{}'::jsonb",
    "many attributes": "'n1', 'relu', '{n0}', jsonb_object_agg(i, i) FROM generate_series(1, 100000) AS i",
    "many dimensions": """'n1', 'input', '{}', '{"shape": [1,1,1,1,1,1,1,1,1]}'""",
    "many heads": "'n1', 'attention', '{n0}', "
    "jsonb_build_object('n_head', 65536, 'head_mask', array_fill(1, ARRAY[65536]))",
    "deep attributes": "'n1', 'relu', '{n0}', "
    """format('{"a":%s1%s}', repeat('[', 5000), repeat(']', 5000))::jsonb""",
    "doubling": "'n' || i, 'add', ARRAY['n' || i - 1, 'n' || i - 1], '{}'::jsonb "
    "FROM generate_series(1, 500) AS i",
    "wide products": """'p' || i, 'param', '{}', '{"shape": [2147483647, 2147483647]}'::jsonb
        FROM generate_series(1, 9) AS i""",
}


@pytest.mark.parametrize("name", HUGE_GRAPHS)
def test_huge_graphs(m, name):
    m.execute("DELETE FROM llm_model_config WHERE model = 'huge'")
    m.execute("INSERT INTO llm_model_config VALUES ('huge', 1, 1, 4, 16, 8, 26, 'm')")
    m.execute("""INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES
        ('huge', 'n0', 'input', '{}', '{"shape": ["B", "T", 12]}')""")
    m.execute("SET statement_timeout = '60s'")
    insert = "INSERT INTO llm_graph (model, name, op, inputs, attrs) SELECT 'huge', "
    try:
        m.execute(insert + HUGE_GRAPHS[name])
        last = m.execute(
            "SELECT name FROM llm_graph WHERE model = 'huge' ORDER BY id DESC LIMIT 1"
        ).fetchone()[0]
        m.execute(
            "SELECT shape(llm_eval('huge', %s, %s))", (last, '{"n0": [[[1,2,3,4,5,6,7,8,9,10,11,12]]]}')
        )
        accepted = True
    except psycopg.Error as error:
        assert error.sqlstate not in ("XX000", "57014", "57P02"), error
        accepted = False
    assert accepted == (name in ("a long chain", "and backwards", "doubling")), name
    m.execute("RESET statement_timeout; DELETE FROM llm_model_config WHERE model = 'huge'")
