"""Storage of checkpoints: files that follow their transaction, safe names, rights, dumps."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

import numpy as np
import psycopg
import pytest
from helpers.checkpoint_files import folder as folder
from helpers.checkpoints import TRAIN, bits, load, location, row, save, sha256
from helpers.checkpoints import m as m
from helpers.tiny_model import make
from helpers.training import fill

import pg_llm
from pg_llm.server import binaries
from pg_llm.server import database as databases


def folders(folder):
    return sorted(path.parent.name for path in folder.rglob("config.json"))


def test_a_rollback_takes_the_file_with_it(m, folder):
    with m.transaction(force_rollback=True):
        id = save(m)
        path = location(m, id)
        load(m, id)
        assert path.exists()
    assert not path.parent.exists() and path.parent.parent.exists()
    with m.transaction():
        kept = location(m, save(m))
        with m.transaction(force_rollback=True):
            with m.transaction():
                gone = location(m, save(m))
        with pytest.raises(psycopg.errors.DivisionByZero), m.transaction():
            also = location(m, save(m, "npz"))
            m.execute("SELECT 1 / 0")
        with m.transaction():
            nested = location(m, save(m))
        assert kept.exists() and nested.exists() and not gone.parent.exists() and not also.parent.exists()
    assert sorted([kept.parent.name, nested.parent.name]) == folders(folder)


def test_delete_removes_the_file_at_commit(m, folder):
    ids = [save(m), save(m, "npz"), save(m, "rows")]
    delete = "SELECT llm_checkpoint_delete(%s)"
    with m.transaction(force_rollback=True):
        m.execute(delete, [ids[0]])
        m.execute(delete, [ids[2]])
    with m.transaction():
        with m.transaction(force_rollback=True):
            m.execute(delete, [ids[0]])
        m.execute(delete, [ids[1]])
        assert len(folders(folder)) == 2
    assert folders(folder) == [location(m, ids[0]).parent.name]
    load(m, ids[0])
    with m.transaction():  # created and dropped in one transaction
        m.execute(delete, [save(m)])
    m.execute(delete, [ids[0]])
    m.execute(delete, [ids[2]])
    assert folders(folder) == [] and list(folder.rglob("model.*")) == []
    assert m.execute("SELECT count(*) FROM llm_checkpoint_param").fetchone() == (0,)


def test_a_prepared_transaction_may_not_hold_files(m, folder):
    m.execute("BEGIN")
    save(m)
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot be prepared"):
        m.execute("PREPARE TRANSACTION 'x'")
    m.execute("ROLLBACK")
    assert folders(folder) == []


@pytest.mark.parametrize("model", ["a/../../b", "/etc/passwd", "..", "çok güzel 🦆", "x" * 1000, "a\nb'\"c"])
def test_names_of_models_lead_nowhere(m, folder, model):
    m.execute("SELECT llm_create_model(%s, 1, 1, 4, 8, 26), llm_init_model(%s, 1)", [model, model])
    id = save(m, model=model)
    path = location(m, id)
    assert path.resolve().parent.parent.parent == folder.resolve() and path.exists()
    assert path.parent.name.isascii() and len(path.parent.name) < 80
    hash = sha256(m, model)
    m.execute("SELECT llm_init_model(%s, 2)", [model])
    load(m, id, model)
    assert sha256(m, model) == hash
    m.execute("SELECT llm_checkpoint_delete(%s)", [id])
    assert folders(folder) == []


def test_delete_touches_no_foreign_file(m, folder):
    """A row's location is only text: a file that this database did not make for this id stays."""
    id, other = save(m), save(m)
    mine, theirs = location(m, id), location(m, other)
    foreign = folder / "own.safetensors"
    foreign.write_bytes(b"mine")
    copied = folder / "0123456789abcdef-5" / mine.parent.name  # as if restored from another server's dump
    copied.mkdir(parents=True)
    (copied / "model.safetensors").write_bytes(b"theirs")
    notices = []
    m.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    up = mine.parent.parent / f"{id}-x" / ".." / theirs.parent.name / theirs.name
    for path in (foreign, copied / "model.safetensors", theirs, up, "relative", ""):
        with m.transaction():
            m.execute("UPDATE llm_checkpoint SET location = %s WHERE id = %s", [str(path), id])
            m.execute("SELECT llm_checkpoint_delete(%s)", [id])
            m.execute(
                "INSERT INTO llm_checkpoint SELECT (jsonb_populate_record(c, jsonb_build_object("
                "'id', %s::bigint, 'location', %s::text))).* FROM llm_checkpoint AS c WHERE id = %s",
                [id, str(mine), other],
            )  # fmt: skip
    assert len(notices) == 6 and all("stays" in notice for notice in notices)
    assert foreign.exists() and (copied / "model.safetensors").exists() and mine.exists() and theirs.exists()
    m.execute("RESET pg_llm.checkpoint_dir; SELECT llm_checkpoint_delete(max(id)) FROM llm_checkpoint")
    assert theirs.exists()


def test_folder_setting(m, folder):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        m.execute("SET pg_llm.checkpoint_dir = 'relative/path'")
    m.execute("SET pg_llm.checkpoint_dir = ''")
    assert row(m, m.execute("SELECT llm_checkpoint_save('m')").fetchone()[0]) == ("database",)
    for query in ("location => 'file'", "format => 'npz'"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="checkpoint_dir is empty") as e:
            m.execute(f"SELECT llm_checkpoint_save('m', {query})")
        assert "ALTER SYSTEM SET" in e.value.diag.message_hint
    m.execute("SET pg_llm.checkpoint_dir = '/no/such'")
    with pytest.raises(psycopg.errors.UndefinedFile, match="cannot make folder"):
        m.execute("SELECT llm_checkpoint_save('m')")
    m.execute(f"SET pg_llm.checkpoint_dir = '{folder}/'")
    assert location(m, m.execute("SELECT llm_checkpoint_save('m')").fetchone()[0]).is_relative_to(folder)
    (folder / "file").write_text("")
    m.execute(f"SET pg_llm.checkpoint_dir = '{folder}/file'")
    with pytest.raises(psycopg.Error, match="cannot make folder"):
        m.execute("SELECT llm_checkpoint_save('m')")


@pytest.fixture
def large(m):
    """A model whose file is 31 MB, above the limit below and slow to write."""
    m.execute("SELECT llm_create_model('large', 1, 1, 1024, 8, 7000), llm_init_model('large', 1)")
    m.execute("CHECKPOINT")
    yield "large"
    m.execute("DELETE FROM llm_model_config WHERE model = 'large'")


@pytest.mark.slow
def test_full_disk_leaves_nothing(m, connect, folder, large):
    """Files are limited to 20 MB (a WAL segment has 16): the save fails as on a full disk."""
    other = connect()
    other.execute(f"SET pg_llm.checkpoint_dir = '{folder}'")
    limit = ["prlimit", "--pid", str(other.info.backend_pid), f"--fsize={20 << 20}"]
    if shutil.which("prlimit") is None or binaries.run_as().run(limit).returncode != 0:
        pytest.skip("there is no prlimit, or it may not limit the server's process")
    for format in ("safetensors", "npz"):
        with pytest.raises(psycopg.Error, match="cannot write"):
            other.execute("SELECT llm_checkpoint_save('large', format => %s)", [format])
        assert [p for p in folder.rglob("*") if p.is_file()] == [] and folders(folder) == []
    with other.transaction():
        other.execute("DO $$ BEGIN PERFORM llm_checkpoint_save('large'); "
            "EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'caught'; END $$")  # fmt: skip
        id = save(other)  # a small one still fits
    assert folders(folder) == [location(m, id).parent.name]
    assert m.execute("SELECT count(*) FROM llm_checkpoint").fetchone() == (1,)


def test_an_interrupted_save_leaves_nothing(m, connect, folder, large):
    for function in ("pg_cancel_backend", "pg_terminate_backend"):
        other = connect()
        other.execute(f"SET pg_llm.checkpoint_dir = '{folder}'")
        errors = []

        def run(other=other, errors=errors):
            try:
                while True:
                    other.execute("SELECT llm_checkpoint_delete(llm_checkpoint_save('large'))")
            except psycopg.Error as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not list(folder.rglob("*.tmp")) and thread.is_alive():
            time.sleep(0.001)
        m.execute(f"SELECT {function}(%s)", [other.info.backend_pid])
        thread.join()
        assert errors[0].sqlstate in ("57014", "57P01")
        time.sleep(0.2)
        assert [p for p in folder.rglob("*") if p.is_file()] == [] and folders(folder) == []


def test_beside_a_training(m, connect):
    """A save sees committed state; a load is told immediately who trains."""
    other = connect()
    other.execute("SET pg_llm.checkpoint_dir = ''")
    before, hash, id = bits(m), sha256(m), save(m, "rows")
    with m.transaction():
        m.execute(TRAIN, ("m", 2))
        assert row(m, save(m, "rows"), "step") == (8,)
        theirs = save(other, "rows")
        assert row(other, theirs, "step, model_sha256") == (4, hash)
        with pytest.raises(psycopg.errors.LockNotAvailable, match="being trained"):
            load(other, id)
    assert bits(other) != before
    load(other, id)
    assert bits(m) == before


# ---- rights ----


@pytest.fixture
def student(m):
    m.execute("CREATE ROLE student; GRANT USAGE ON SCHEMA public TO student")
    m.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO student")
    m.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO student")
    m.execute("REVOKE INSERT, UPDATE, DELETE ON llm_model_version FROM student")
    yield m
    m.execute("RESET ROLE; DROP OWNED BY student; DROP ROLE student")


def test_a_student_has_versions_in_the_database(student, folder):
    theirs = save(student)
    before = bits(student)
    student.execute("SET ROLE student")
    (id,) = student.execute("SELECT llm_checkpoint_save('m', 'mine')").fetchone()
    assert row(student, id, "location, format, note") == ("database", "rows", "mine")
    student.execute(TRAIN, ("m", 2))
    load(student, id)
    assert bits(student) == before
    student.execute("SELECT llm_checkpoint_delete(%s)", [id])
    for query in ("llm_checkpoint_save('m', location => 'file')", "llm_checkpoint_save('m', format => 'npz')",
                  f"llm_checkpoint_delete({theirs})"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="to write a file of the server"):
            student.execute(f"SELECT {query}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="to read a file of the server"):
        load(student, theirs)
    for path in ("/etc/passwd", str(location(student, theirs))):  # nor by a forged row
        student.execute("UPDATE llm_checkpoint SET location = %s WHERE id = %s", [path, theirs])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            load(student, theirs)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        student.execute(f"SET pg_llm.checkpoint_dir = '{folder}'")
    student.execute(
        "RESET ROLE; GRANT pg_read_server_files, pg_write_server_files TO student; SET ROLE student"
    )
    load(student, theirs)
    (id,) = student.execute("SELECT llm_checkpoint_save('m')").fetchone()
    assert location(student, id).is_relative_to(folder)
    student.execute("SELECT llm_checkpoint_delete(%s), llm_checkpoint_delete(%s)", [id, theirs])
    assert folders(folder) == []


@pytest.mark.parametrize("table", ["llm_param", "llm_checkpoint", "llm_checkpoint_param", "llm_graph"])
def test_a_checkpoint_needs_its_tables(student, table):
    id = save(student, "rows")
    # the kit's own databases grant them to PUBLIC
    student.execute(f"REVOKE ALL ON {table} FROM student, PUBLIC; SET ROLE student")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=table):
            load(student, id)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=table):
            student.execute("SELECT llm_checkpoint_save('m')")
    finally:
        student.execute(f"RESET ROLE; GRANT ALL ON {table} TO PUBLIC")


# ---- dump and restore ----


@pytest.mark.slow
def test_dump_and_restore(m, server, folder):
    """Rows are restored with the database; a file is found, but the restored database may not remove it."""
    rows, file = save(m, "rows"), save(m)
    before = bits(m)
    dump = folder / "dump.sql"
    client = binaries.server_package() / "pginstall18" / "bin"
    where = psycopg.conninfo.make_conninfo(**m.info.get_parameters())
    subprocess.run([client / "pg_dump", "-f", dump, "-d", where], check=True)
    with pg_llm.connect(fresh=True) as other:
        other.execute("DROP EXTENSION pg_llm CASCADE")
        target = psycopg.conninfo.make_conninfo(**other.info.get_parameters())
        subprocess.run(
            [client / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-f", dump, "-d", target],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        other.execute(f"SET pg_llm.checkpoint_dir = '{folder}'")
        for id in (rows, file):
            other.execute("UPDATE llm_param SET data = data * 2::real::tensor, step = 0 WHERE model = 'm'")
            load(other, id)
            assert bits(other) == before
            other.execute("SELECT llm_checkpoint_delete(%s)", [id])
        assert save(other, "rows") > file
    assert location(m, file).exists()


@pytest.mark.slow
def test_a_reset_keeps_checkpoints_of_ones_own_models(server):
    """%pg_llm reset keeps my_* models with their versions and their training; new ids continue after them."""
    databases.drop_database("carried")
    try:
        with pg_llm.connect("carried") as conn:
            conn.execute("SET pg_llm.checkpoint_dir = ''")
            make(conn, "my_model")
            fill(conn, "letters", np.random.default_rng(3).integers(0, 26, (6, 9)))
            conn.execute(TRAIN, ("my_model", 1))
            id = save(conn, "rows", "my_model")
            before = bits(conn, "my_model")
            conn.execute(TRAIN, ("my_model", 2))
        databases.reset("carried")
        with pg_llm.connect("carried") as conn:
            conn.execute("SET pg_llm.checkpoint_dir = ''")
            load(conn, id, "my_model")
            assert bits(conn, "my_model") == before
            fill(conn, "letters", np.random.default_rng(3).integers(0, 26, (6, 9)))
            conn.execute(TRAIN, ("my_model", 3))
            assert save(conn, "rows", "my_model") > id
    finally:
        databases.drop_database("carried")
