"""Tensors on connections that pg_llm did not open: async ones, pools, SQLAlchemy."""

from __future__ import annotations

import asyncio

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pg_llm
from pg_llm.errors import NoExtensionError

pytestmark = pytest.mark.slow

ARRAY = np.array([[1, 2.5], [-3e-30, 4]], np.float32)
QUERY = "SELECT %s, %s"


@pytest.fixture
def info(server, database):
    return psycopg.conninfo.make_conninfo(**server.start().conninfo(database))


def is_array(value):
    return value.dtype == np.float32 and np.array_equal(value, ARRAY)


def test_async_connections(info):
    async def answers(binary):
        async with await psycopg.AsyncConnection.connect(info) as conn:
            await pg_llm.register_async(conn)
            assert conn.info.transaction_status == TransactionStatus.IDLE
            cursor = conn.cursor(binary=binary)
            return await (await cursor.execute(QUERY, [ARRAY, [ARRAY, ARRAY]])).fetchone()

    for binary in (False, True):
        one, several = asyncio.run(answers(binary))
        assert is_array(one) and [*map(is_array, several)] == [True, True]


def test_whatever_rows_the_connection_makes(info):
    """register reads the type in rows of its own, inside an open transaction, too."""
    with psycopg.connect(info, row_factory=psycopg.rows.dict_row) as conn:
        conn.execute("SELECT 1")
        pg_llm.register(conn)
        assert is_array(conn.execute("SELECT %s AS t", [ARRAY]).fetchone()["t"])


def test_pools(info):
    pool = pytest.importorskip("psycopg_pool")
    with pool.ConnectionPool(info, min_size=1, configure=pg_llm.register, open=True) as connections:
        with connections.connection() as conn:
            assert is_array(conn.execute(QUERY, [ARRAY, [ARRAY]]).fetchone()[0])

    async def answer():
        configured = pool.AsyncConnectionPool(info, configure=pg_llm.register_async, open=False)
        async with configured as connections, connections.connection() as conn:
            return await (await conn.execute(QUERY, [ARRAY, [ARRAY]])).fetchone()

    assert is_array(asyncio.run(answer())[0])


def test_what_cannot_be_registered(server, info):
    bare = psycopg.conninfo.make_conninfo(info, dbname="template1")

    async def other(register, where):
        async with await psycopg.AsyncConnection.connect(where) as conn:
            found = register(conn)
            await found

    with pytest.raises(TypeError, match="AsyncConnection; for async connections there is register_async"):
        asyncio.run(other(pg_llm.register, info))
    with pytest.raises(NoExtensionError):
        asyncio.run(other(pg_llm.register_async, bare))
    with psycopg.connect(bare) as conn, pytest.raises(NoExtensionError):
        pg_llm.register(conn)
    with psycopg.connect(info) as conn, pytest.raises(TypeError, match="AsyncConnection, not Connection"):
        asyncio.run(pg_llm.register_async(conn))
    with psycopg.connect(info) as conn, pytest.raises(TypeError, match="not Cursor"):
        pg_llm.register(conn.cursor())


class Base(DeclarativeBase):
    pass


class Thought(Base):
    __tablename__ = "thought"
    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[np.ndarray | None] = mapped_column(pg_llm.Tensor)


@pytest.mark.parametrize("registered", [False, True])
def test_columns_of_sqlalchemy(server, database, registered):
    live = server.start()
    url = sa.URL.create("postgresql+psycopg", "postgres", database=database)
    engine = sa.create_engine(url.update_query_dict({"host": str(live.socket_dir), "port": str(live.port)}))
    if registered:
        sa.event.listen(engine, "connect", lambda conn, record: pg_llm.register(conn))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    empty = np.zeros((0, 3), np.float32)
    with Session(engine) as session:
        session.add_all([Thought(id=1, data=ARRAY), Thought(id=2), Thought(id=3, data=[[1, 2]])])
        session.add(Thought(id=4, data=empty))
        session.commit()
        assert is_array(session.get(Thought, 1).data)
        assert session.get(Thought, 2).data is None
        assert session.get(Thought, 3).data.tolist() == [[1, 2]]
        assert session.get(Thought, 4).data.shape == (0, 3)
        session.get(Thought, 1).data = ARRAY.copy()
        assert not session.is_modified(session.get(Thought, 1)), "the same values are no change"
        session.get(Thought, 1).data = ARRAY + 1
        session.commit()
        found = session.scalars(sa.select(Thought).where(Thought.data == ARRAY + 1)).one()
        assert found.id == 1
        scalar = sa.func.numel(sa.literal(ARRAY, pg_llm.Tensor))
        assert session.scalar(sa.select(scalar)) == 4
        literal = sa.select(scalar).compile(engine, compile_kwargs={"literal_binds": True})
        assert session.scalar(sa.text(str(literal))) == 4
        with pytest.raises(sa.exc.StatementError, match="too large"):
            session.add(Thought(id=5, data=[1e300]))
            session.flush()
    reflected = sa.Table("thought", sa.MetaData(), autoload_with=engine)
    assert isinstance(reflected.c.data.type, pg_llm.Tensor)
    assert pg_llm.Tensor("My Ext").get_col_spec() == '"My Ext".tensor'
    engine.dispose()
