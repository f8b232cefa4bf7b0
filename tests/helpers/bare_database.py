"""A database without the kit's grants, in place of the fixture of this name in conftest."""

import psycopg
import pytest
from psycopg import sql


@pytest.fixture(scope="module")
def database(server):
    """A database with the extension as CREATE EXTENSION leaves it, without the kit's own grants."""
    name = "test_bare"
    with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    yield name
    with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
