"""A student who attacks: none of their code runs with another's rights, on any table, by any function."""

import contextlib
import itertools

import psycopg
import pytest

import pg_llm
from pg_llm.errors import KitError
from pg_llm.server import database as databases
from pg_llm.server import rights, template

pytestmark = pytest.mark.slow  # each test creates a template

RELATIONS = """SELECT c.oid::regclass::text, c.relkind FROM pg_class c JOIN pg_depend d
    ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_llm'
    WHERE c.relkind IN ('r', 'v', 'S') ORDER BY 1"""

# Any role that runs this with more rights than its login role grants them to the student.
EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.strike() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    IF current_user <> session_user OR session_user <> 'pupil' THEN
        EXECUTE 'ALTER ROLE pupil SUPERUSER';
    END IF;
END $$;
CREATE FUNCTION evil.row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.strike(); RETURN coalesce(NEW, OLD); END $$;
CREATE FUNCTION evil.yes() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.strike(); RETURN true; END $$;
"""

# {r} is the relation: everything that would make a statement on it execute code, or redirect its rows.
HANGINGS = [
    "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON {r} FOR EACH ROW EXECUTE FUNCTION evil.row()",
    "CREATE TRIGGER t AFTER UPDATE ON {r} EXECUTE FUNCTION evil.row()",
    "CREATE TRIGGER t BEFORE TRUNCATE ON {r} EXECUTE FUNCTION evil.row()",
    "CREATE TRIGGER t INSTEAD OF INSERT ON {r} FOR EACH ROW EXECUTE FUNCTION evil.row()",
    "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON {r} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "EXECUTE FUNCTION evil.row()",
    "CREATE RULE r AS ON UPDATE TO {r} DO ALSO SELECT evil.strike()",
    "CREATE RULE r AS ON INSERT TO {r} DO INSTEAD SELECT evil.strike()",
    "CREATE POLICY p ON {r} USING (evil.yes())",
    "ALTER TABLE {r} ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {r} DISABLE TRIGGER ALL",
    "ALTER TABLE {r} ADD CHECK (evil.yes())",
    "ALTER TABLE {r} ADD COLUMN c boolean DEFAULT evil.yes()",
    "ALTER TABLE {r} OWNER TO pupil",
    "ALTER TABLE {r} RENAME TO other",
    "ALTER TABLE {r} SET SCHEMA evil",
    "CREATE INDEX ON {r} ((evil.yes()))",
    "CREATE STATISTICS evil.s ON (evil.yes()), (1) FROM {r}",
    "CREATE TABLE evil.kid () INHERITS ({r})",
    "CREATE OR REPLACE VIEW {r} AS SELECT evil.strike()",
    "TRUNCATE {r} CASCADE",
    "DROP TABLE {r} CASCADE",
    "CREATE PUBLICATION p FOR TABLE {r}",
]
KEYS = {
    "llm_model_config": "model text REFERENCES public.llm_model_config",
    "llm_run": "run bigint REFERENCES public.llm_run",
    "llm_train_run": "run bigint REFERENCES public.llm_train_run",
    "llm_checkpoint": "id bigint REFERENCES public.llm_checkpoint",
}


@pytest.fixture
def use(server, monkeypatch):
    """A function that sets PG_LLM_DSN to a role's connection."""
    info = server.start().conninfo("postgres")

    def become(role):
        value = psycopg.conninfo.make_conninfo(**{**info, "user": role})
        monkeypatch.setenv("PG_LLM_DSN", value)

    with psycopg.connect(**info, autocommit=True) as admin:
        drop(admin)
        admin.execute("CREATE ROLE pupil LOGIN CREATEDB")
        become("postgres")
        yield become
        become("postgres")
        drop(admin)


def drop(admin):
    """Drops everything that a test may have created."""
    query = "SELECT datname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE rolname = 'pupil'"
    for (name,) in admin.execute(query).fetchall() + [(template.TEMPLATE,)]:
        with contextlib.suppress(psycopg.errors.InvalidCatalogName):
            admin.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    with contextlib.suppress(psycopg.errors.UndefinedObject):
        admin.execute("ALTER ROLE pupil NOSUPERUSER; DROP OWNED BY pupil CASCADE; DROP ROLE pupil")


@pytest.fixture
def pupil(use):
    """The student in a database of their own, created from the teacher's template."""
    databases.create_template()
    use("pupil")
    with pg_llm.connect(databases.database_for("lesson.ipynb")) as conn:
        conn.execute(EVIL)
        yield conn
    assert_powerless(use)


def assert_powerless(use):
    use("postgres")
    with psycopg.connect(databases.dsn()) as admin:
        query = "SELECT rolsuper, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = 'pupil'"
        assert admin.execute(query).fetchone() == (False, False, False)


def refused(conn, statement):
    """The statement's error; fails if it has none."""
    try:
        with conn.transaction():
            conn.execute(statement)
    except psycopg.Error as error:
        return error
    raise AssertionError(f"a student may do this: {statement}")


def test_a_trigger_on_a_table_that_others_write(pupil):
    """Regression test: it ran with the rights of the table's owner, by a trigger of the kit or a cascade."""
    for table in ("llm_model_version", "llm_graph", "llm_param"):
        error = refused(pupil, HANGINGS[0].format(r=table))
        assert isinstance(error, psycopg.errors.InsufficientPrivilege)
    pupil.execute("UPDATE llm_param SET grad = NULL WHERE model = 'classroom-1' AND name = 'wte.weight'")
    pupil.execute("DELETE FROM llm_model_config WHERE model = 'classroom-1'")
    assert pupil.execute("SELECT count(*) FROM llm_param WHERE model = 'classroom-1'").fetchone() == (0,)


def test_nothing_can_be_hung_on_any_relation(pupil):
    relations = pupil.execute(RELATIONS).fetchall()
    assert len(relations) > 25
    for (relation, _), hanging in itertools.product(relations, HANGINGS):
        error = refused(pupil, hanging.format(r=relation))
        assert error.sqlstate in ("42501", "42809", "42P16", "42P17", "0A000"), (hanging, relation, error)
    granted = "SELECT string_agg(relacl::text, ' ' ORDER BY oid) FROM pg_class WHERE relname LIKE 'llm%'"
    before = pupil.execute(granted).fetchone()
    for relation, _ in relations:
        pupil.execute(f"GRANT ALL ON {relation} TO pupil WITH GRANT OPTION")  # only a WARNING
    assert pupil.execute(granted).fetchone() == before
    for table, column in KEYS.items():
        error = refused(pupil, f"CREATE TABLE evil.{table} ({column} ON DELETE CASCADE)")
        assert error.sqlstate in ("42501", "42P16"), error  # llm_run is unlogged


def test_the_extensions_schema_is_not_the_students(pupil):
    for statement in (
        "CREATE FUNCTION public._llm_recipe(text, text, float8, numeric) RETURNS int RETURN 1",
        "CREATE OPERATOR public.@ (LEFTARG = tensor, RIGHTARG = int, FUNCTION = evil.yes)",
        "CREATE TABLE public.mine ()",
        "CREATE VIEW public.mine AS SELECT 1",
        "CREATE DOMAIN public.mine AS text",
        "ALTER SCHEMA public RENAME TO elsewhere",
        "ALTER SCHEMA public OWNER TO pupil",
        "DROP SCHEMA public CASCADE",
        "DROP EXTENSION pg_llm CASCADE",
        "ALTER EXTENSION pg_llm SET SCHEMA evil",
        "ALTER FUNCTION _llm_touch_version() SECURITY DEFINER",
        "CREATE OR REPLACE FUNCTION public.shape(t tensor) RETURNS int[] RETURN NULL",
        "UPDATE llm_model_version SET version = 1",
        "UPDATE llm_op SET formula = ''",
        "SELECT setval('llm_version_seq', 1)",
    ):
        refused(pupil, statement)
    # the student can still create objects
    pupil.execute("CREATE TABLE mine (t tensor(2)); INSERT INTO mine VALUES ('[1,2]')")
    assert pupil.execute("SELECT '(mine)'::text, to_regclass('pupil.mine') IS NOT NULL").fetchone()[1]


SAMPLES = {
    "text": ["'classroom-1'", "'wte.weight'", "'x'", "NULL", "'SELECT evil.yes()::text'", "'h.0'"],
    "integer": ["1", "0", "NULL", "-1"],
    "bigint": ["1", "0", "NULL"],
    "real": ["0.5", "NULL"],
    "double precision": ["0.5", "NULL"],
    "boolean": ["true", "NULL"],
    "tensor": ["'[[1,2],[3,4]]'", "'[1,2]'", "NULL"],
    "bytea": ["'\\x0000803f00000040'", "NULL"],
    "integer[]": ["'{1,2}'", "'{}'", "NULL"],
    "bigint[]": ["'{1}'"],
    "real[]": ["'{1,2}'"],
    "double precision[]": ["'{1,2}'"],
    "text[]": ["'{a,b}'"],
    "jsonb": ["'{}'"],
    "llm_train_run": ["NULL"],
}


def calls(conn):
    """Every function and procedure of the extension, with arguments of each type's samples in turn."""
    query = """SELECT p.proname, p.prokind, coalesce((SELECT array_agg(t::regtype::text ORDER BY n)
        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (t, n)), '{}')
        FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_llm'
        WHERE p.prokind IN ('f', 'p') AND d.deptype = 'e' ORDER BY 1, 3"""
    for name, kind, types in conn.execute(query).fetchall():
        for turn in range(6 if types else 1):
            values = [SAMPLES.get(t, ["NULL"]) for t in types]
            arguments = [f"{v[turn % len(v)]}::{t}" for v, t in zip(values, types, strict=True)]
            yield f"{'CALL' if kind == 'p' else 'SELECT'} public.{name}({', '.join(arguments)})"


@pytest.mark.parametrize("path", ["evil, pg_catalog, public", "pg_temp, pupil, public"])
def test_every_function_with_hostile_namesakes(pupil, path):
    """The student's operators, functions and tables precede the extension's in search_path."""
    for n, (operator, types) in enumerate(
        itertools.product(
            ["=", "<>", "<", "+", "-", "*", "||", "->>", "@"], ["text,text", "int4,int4", "tensor,tensor"]
        )
    ):
        left, right = types.split(",")
        body = "BEGIN PERFORM evil.strike(); RETURN NULL; END"
        left, right = (f"public.{t}" if t == "tensor" else t for t in (left, right))
        pupil.execute(
            f"CREATE FUNCTION evil.op{n}({left}, {right}) RETURNS bool LANGUAGE plpgsql AS '{body}'"
        )
        pupil.execute(
            f"CREATE OPERATOR evil.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = evil.op{n})"
        )
    for relation, kind in pupil.execute(RELATIONS).fetchall():
        if kind == "r":
            pupil.execute(f"CREATE TEMP TABLE {relation} (LIKE public.{relation})")
            pupil.execute(HANGINGS[0].format(r=f"pg_temp.{relation}"))
    pupil.execute(f"SET search_path = {path}; SET statement_timeout = '2s'")
    for number, call in enumerate(list(calls(pupil))):
        with contextlib.suppress(psycopg.Error):
            pupil.execute(call)
        assert not pupil.closed, call
        if number % 50 == 0:
            pupil.execute("SET pg_llm.autograd = off")


def test_what_older_builds_gave_is_taken_back(pupil, use):
    """A database in which PUBLIC had every right, with a student's trigger on a table."""
    name = pupil.info.dbname
    use("postgres")
    with psycopg.connect(databases.dsn(), dbname=name, autocommit=True) as admin:
        admin.execute(
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; GRANT CREATE ON SCHEMA public TO PUBLIC"
        )
        admin.execute(
            "GRANT TRIGGER ON llm_param TO pupil WITH GRANT OPTION; ALTER SCHEMA public OWNER TO pupil"
        )
        admin.execute("ALTER FUNCTION _llm_touch_version() SECURITY DEFINER")
        admin.execute("ALTER VIEW llm_tensor SET (security_invoker = false)")
    pupil.execute("DROP SCHEMA pupil")
    pupil.execute(HANGINGS[0].format(r="llm_graph") + "; " + HANGINGS[4].format(r="llm_param"))
    pupil.execute(f"CREATE TABLE evil.k ({KEYS['llm_model_config']} ON DELETE CASCADE)")
    pupil.execute(
        "CREATE FUNCTION public.text(regclass) RETURNS text LANGUAGE sql "
        "AS 'SELECT evil.strike(); SELECT 1::text'"
    )
    pupil.execute(f"ALTER DATABASE {name} SET search_path = public, evil, pg_catalog")
    with psycopg.connect(databases.dsn(), dbname=name, autocommit=True) as admin:
        warnings = []
        admin.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.message_primary))
        rights.secure(admin)
        assert sum("was dropped" in w for w in warnings) == 3
        assert admin.execute(
            "SELECT count(*) FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
        ).fetchone() == (0,)
        rights.secure(admin)  # idempotent
    with psycopg.connect(
        psycopg.conninfo.make_conninfo(databases.dsn(), user="pupil", dbname=name), autocommit=True
    ) as conn:
        for relation in ("llm_graph", "llm_param", "llm_model_config"):
            refused(conn, HANGINGS[0].format(r=relation))
        refused(conn, "CREATE TABLE public.more ()")
        conn.execute("RESET search_path; CREATE TABLE pupil.more ()")
        conn.execute("DELETE FROM public.llm_model_config WHERE model = 'classroom-1'")


SPRING = """
CREATE FUNCTION evil.equal(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    SET ROLE NONE; PERFORM evil.strike(); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.equal);
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.strike(); RETURN pg_catalog.set_config($1, $2, $3); END $$;
CREATE SCHEMA learner;
CREATE FUNCTION learner.check(int) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN PERFORM evil.strike(); RETURN true; END $$;
CREATE TABLE learner.t (i int CHECK (learner.check(i)));
INSERT INTO learner.t VALUES (1);
"""


@pytest.mark.parametrize("role", [None, "pupil"])
def test_a_superuser_in_a_database_full_of_traps(pupil, use, tmp_path, role):
    """Operators and functions with the kit's names, first in search_path, and a role for all sessions."""
    name = pupil.info.dbname
    pupil.execute(SPRING)
    pupil.execute(f"ALTER DATABASE {name} SET search_path = evil, pg_catalog, public")
    if role:
        pupil.execute(f"ALTER DATABASE {name} SET role = {role}")
    use("postgres")
    with pytest.raises(KitError, match=r"belongs to role pupil"):
        pg_llm.connect(name)
    with pytest.raises(KitError, match=r"belongs to role pupil"):
        databases.reset(name)
    with psycopg.connect(databases.dsn(), dbname=name, autocommit=True) as admin:
        rights.secure(admin)
    from pg_llm.backup.backup import backup

    backup(name, tmp_path / "a.backup")


def test_a_superuser_runs_nothing_of_a_students(pupil, use):
    """Neither in the student's database nor by a template that the student created in the teacher's place."""
    name = pupil.info.dbname
    use("postgres")
    with pytest.raises(KitError, match=r"belongs to role pupil.*rights of postgres, a superuser"):
        pg_llm.connect(name)
    with psycopg.connect(databases.dsn(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {template.TEMPLATE} IS_TEMPLATE false")
        admin.execute(f"DROP DATABASE {template.TEMPLATE}")
        note = template.read_note(admin, name)
    pupil.execute(f"CREATE DATABASE {template.TEMPLATE} IS_TEMPLATE true")
    template.write_note(pupil, template.TEMPLATE, note)
    databases.create_template()
    with psycopg.connect(databases.dsn()) as admin:
        assert rights.stranger(admin, template.TEMPLATE) is None


def test_installing_beside_what_a_student_made(use):
    """A student's operator or function could be executed by the installation script itself."""
    use("pupil")
    with psycopg.connect(databases.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE own")
    own = psycopg.conninfo.make_conninfo(databases.dsn(), dbname="own")
    with psycopg.connect(own, autocommit=True) as conn:
        conn.execute(EVIL)
        conn.execute(
            "CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql "
            "AS 'SELECT evil.strike(); SELECT $1'"
        )
    use("postgres")
    own = psycopg.conninfo.make_conninfo(databases.dsn(), dbname="own")
    with psycopg.connect(own, autocommit=True) as admin:
        error = refused(admin, "CREATE EXTENSION pg_llm")
        assert "may create objects in schema public" in str(error) and "SCHEMA llm" in error.diag.message_hint
        admin.execute("ALTER SCHEMA public OWNER TO CURRENT_USER")
        error = refused(admin, "CREATE EXTENSION pg_llm")
        assert 'format(text,text) in schema public belongs to role "pupil"' in str(error)
        admin.execute("DROP FUNCTION public.format(text, text); CREATE EXTENSION pg_llm")
        admin.execute("DROP EXTENSION pg_llm; CREATE SCHEMA llm")
        admin.execute("CREATE EXTENSION pg_llm SCHEMA llm; SET search_path = llm, public")
        assert admin.execute("SELECT count(*) FROM llm_op").fetchone()[0] > 20
    assert_powerless(use)
