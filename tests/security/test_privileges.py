"""Rights of roles: those that a function needs, and none through a search_path or a cached copy."""

import contextlib

import psycopg
import pytest
from helpers.bare_database import database as database
from helpers.tiny_model import make

READ = "llm_model_config, llm_graph, llm_param, llm_param_share, llm_bpe_vocab, llm_bpe_merges"
USES = [
    "SELECT llm_generate('ab', 3, 0, model => 'm')",
    "SELECT text FROM llm_generate_stream('ab', 3, 0, model => 'm')",
    "SELECT * FROM llm_beam_search('ab', 2, 3, 'm')",
    "SELECT * FROM llm_next_tokens('ab', 3, 'm')",
    "SELECT llm_logits(ARRAY[1, 2], 'm')::text",
    "SELECT llm_loss('m', ARRAY[1, 2], ARRAY[2, 3])",
    """SELECT llm_eval('m', 'h.0', '{"tokens": [1, 2]}')::text""",
    "SELECT llm_eval('m', 'wte.weight', NULL)::text",
]


@pytest.fixture
def m(conn):
    conn.execute("DELETE FROM llm_model_config WHERE model IN ('m', 'theirs')")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
    make(conn, "m")
    return conn


@pytest.fixture
def role(conn):
    """A role without any rights."""
    name = "llm_test_role"
    with contextlib.suppress(psycopg.errors.UndefinedObject):
        conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
    conn.execute(f"CREATE ROLE {name}")
    yield name
    conn.execute("RESET ROLE; RESET search_path")
    conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def results(conn, uses=USES):
    return [conn.execute(use).fetchall() for use in uses]


def test_reading_a_model_needs_select_on_its_tables(m, role):
    expected = results(m)  # loads the copy into memory
    for use in USES:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            m.execute(f"SET ROLE {role}")
            m.execute(use)
    m.execute(f"RESET ROLE; GRANT SELECT ON {READ} TO {role}; SET ROLE {role}")
    assert results(m) == expected
    for table in READ.split(", ")[:4]:
        m.execute(f"RESET ROLE; REVOKE SELECT ON {table} FROM {role}; SET ROLE {role}")
        for use in USES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=table):
                m.execute(use)
        m.execute(f"RESET ROLE; GRANT SELECT ON {table} TO {role}; SET ROLE {role}")
    for table in READ.split(", ")[4:]:
        m.execute(f"RESET ROLE; REVOKE SELECT ON {table} FROM {role}; SET ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=table):
            m.execute(USES[0])
        m.execute(f"RESET ROLE; GRANT SELECT ON {table} TO {role}; SET ROLE {role}")
    assert results(m) == expected


def test_rights_to_change_a_model(m, role):
    """UPDATE on llm_param suffices to write weights: versions are raised without further rights."""
    m.execute(f"GRANT SELECT ON {READ} TO {role}; SET ROLE {role}")
    before = results(m)
    for change in (
        "UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'm'",
        "UPDATE llm_graph SET op = 'relu' WHERE model = 'm' AND op = 'gelu'",
        "DELETE FROM llm_bpe_vocab WHERE model = 'm'",
        "UPDATE llm_model_version SET version = 1",
        "SELECT nextval('llm_version_seq')",
        "TRUNCATE llm_param",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            m.execute(change)
    m.execute(f"RESET ROLE; GRANT UPDATE ON llm_param, llm_graph TO {role}; SET ROLE {role}")
    m.execute("UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'm' AND name = 'wte.weight'")
    weights = results(m)
    m.execute("UPDATE llm_graph SET op = 'relu' WHERE model = 'm' AND op = 'gelu'")
    graph = results(m)
    assert before != weights != graph
    assert (
        m.execute("SELECT shape FROM llm_graph WHERE model = 'm' AND op = 'relu'").fetchone()[0][2] == "4*C"
    )
    # the role's own model
    m.execute(
        f"RESET ROLE; GRANT INSERT, DELETE ON llm_model_config, llm_graph, llm_param TO {role}; "
        f"GRANT USAGE ON SEQUENCE llm_graph_id_seq TO {role}; SET ROLE {role}"
    )
    m.execute("SELECT llm_create_model('theirs', 1, 1, 4, 8, 26); SELECT llm_init_model('theirs', 1)")
    m.execute("SELECT llm_logits(ARRAY[1], 'theirs')")


def test_row_security_holds_for_cached_copies(m, role):
    m.execute(f"GRANT SELECT ON {READ} TO {role}; GRANT UPDATE ON llm_param TO {role}")
    m.execute("ALTER TABLE llm_param ENABLE ROW LEVEL SECURITY")
    m.execute(f"CREATE POLICY not_m ON llm_param TO {role} USING (model <> 'm')")
    try:
        expected = results(m, USES[4:5])
        m.execute(f"SET ROLE {role}")
        with pytest.raises(psycopg.errors.UndefinedObject, match="no weights for 28 of its parameters"):
            m.execute(USES[4])
        m.execute("RESET ROLE")
        assert results(m, USES[4:5]) == expected
    finally:
        m.execute(
            "RESET ROLE; DROP POLICY not_m ON llm_param; ALTER TABLE llm_param DISABLE ROW LEVEL SECURITY"
        )


def test_trigger_functions_are_not_for_others(m, role):
    """On a table of its own, a role could use them to lock versions of others' models."""
    m.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {role}; SET ROLE {role}")
    m.execute("CREATE TABLE own (model text)")
    for function in ("_llm_touch_version('model')", "_llm_check_graph()"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            m.execute(f"CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION {function}")
    m.execute(
        "CREATE TRIGGER t BEFORE INSERT ON own EXECUTE FUNCTION _llm_begin_change(); "
        "INSERT INTO own VALUES ('m')"
    )
    m.execute("RESET ROLE; REVOKE CREATE, USAGE ON SCHEMA public FROM PUBLIC; DROP TABLE own")
    m.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    for function in ("_llm_begin_change", "_llm_touch_version", "_llm_check_graph"):
        with pytest.raises(psycopg.Error, match="for the triggers of"):
            m.execute(f"SELECT {function}()")


EVIL = """
CREATE SCHEMA IF NOT EXISTS evil;
CREATE OR REPLACE FUNCTION evil.hijack() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'hijacked by %', current_user; END $$;
"""
OPERATORS = {
    "=": "boolean",
    "<>": "boolean",
    "<": "boolean",
    "->>": "text",
    "||": "text",
    "-": "int",
    "*": "int",
}
OPERANDS = {
    "=": ["text, text", "text, varchar", "int, int"],
    "<>": ["text, text", "int, int"],
    "<": ["int, int", "text, text"],
    "->>": ["jsonb, text"],
    "||": ["text, text", "text, int", "text, anynonarray"],
    "-": ["int, int", "bigint, int"],
    "*": ["int, int"],
}
FUNCTIONS = [
    "unnest(text[])", "numel(tensor)", "sum(bigint)", "llm_default_model()",
    "jsonb_build_object(text, int)", "sqrt(double precision)",
    "format(text, int)", "generate_series(int, int)", "nextval(regclass)", "string_to_array(text, text)",
    "llm_param_shapes(text)", "_llm_write_graph(text)", "llm_gpt2_graph(text)",
    "_llm_generate_rows(text, int, double precision, int, double precision, text, int, bigint, text[],"
    " double precision, double precision, int)",
    "_llm_init_tensor(text, int[], text, double precision, bigint)",
]  # fmt: skip


@pytest.fixture
def evil(m):
    """Objects with the names of all that the extension uses, before it and pg_catalog in search_path."""
    m.execute(EVIL)
    for operator, result in OPERATORS.items():
        for n, operands in enumerate(OPERANDS[operator]):
            name = f"evil.op{list(OPERATORS).index(operator)}{n}"
            left, right = operands.split(", ")
            body = f"'SELECT evil.hijack(); SELECT NULL::{result}'"
            m.execute(f"CREATE FUNCTION {name}({operands}) RETURNS {result} LANGUAGE sql AS {body}")
            m.execute(
                f"CREATE OPERATOR evil.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {name})"
            )
    for function in FUNCTIONS:
        m.execute(
            f"CREATE FUNCTION evil.{function} RETURNS text LANGUAGE sql AS 'SELECT evil.hijack()::text'"
        )
    for table in READ.split(", ") + ["llm_model_version"]:
        m.execute(
            f"CREATE TABLE evil.{table} (LIKE public.{table}); "
            f"CREATE TEMP TABLE {table} (LIKE public.{table})"
        )
    m.execute("CREATE TYPE evil.text AS (a int); CREATE TYPE evil.tensor AS (a int)")
    yield m
    m.execute("RESET search_path; SET client_min_messages = error; DROP SCHEMA evil CASCADE; DISCARD TEMP")


@pytest.mark.parametrize(
    "path", ["evil, public", "evil, public, pg_catalog", "pg_temp, evil, pg_catalog, public"]
)
def test_namesakes_have_no_effect(evil, path):
    expected = results(evil, [use.replace("llm_", "public.llm_") for use in USES])
    evil.execute(f"SET search_path = {path}")
    public = [use.replace("llm_", "public.llm_").replace("::text", "::pg_catalog.text") for use in USES]
    assert results(evil, public) == expected
    evil.execute("UPDATE public.llm_param SET step = 3 WHERE model OPERATOR(pg_catalog.=) 'm'")
    evil.execute("UPDATE public.llm_graph SET id = id WHERE model OPERATOR(pg_catalog.=) 'm'")
    assert results(evil, public) == expected
    evil.execute(
        "DISCARD PLANS; UPDATE public.llm_bpe_vocab SET rank = NULL WHERE model OPERATOR(pg_catalog.=) 'm'"
    )
    assert results(evil, public) == expected
    evil.execute(
        "SELECT public.llm_create_model('theirs', 2, 1, 4, 8, 26, options => '{\"activation\": \"relu\"}')"
    )
    evil.execute("SELECT public.llm_init_model('theirs', 1); SELECT public.llm_logits(ARRAY[1], 'theirs')")
    evil.execute("DELETE FROM public.llm_model_config WHERE model OPERATOR(pg_catalog.=) 'theirs'")


def test_what_public_may_do(conn):
    """PUBLIC reads three tables and two views, and switches its own session's recording; nothing else."""
    rows = conn.execute(
        """SELECT c.relname, a.privilege_type FROM pg_class c
        JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
        JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_llm',
        aclexplode(c.relacl) AS a WHERE a.grantee = 0 ORDER BY 1, 2"""
    ).fetchall()
    switch = [("llm_autograd_mode", right) for right in ("DELETE", "INSERT", "SELECT", "UPDATE")]
    read = [(name, "SELECT") for name in ("llm_bpe_config", "llm_model_version", "llm_op", "llm_progress")]
    assert rows == [("llm_architecture", "SELECT"), *switch, *read]
    definer = conn.execute(
        """SELECT p.proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass
        AND d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid
        AND e.extname = 'pg_llm' WHERE p.prosecdef ORDER BY 1"""
    ).fetchall()
    assert definer == []  # they would execute code that roles attach to the tables they write
