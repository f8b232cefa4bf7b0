"""The reference pages are current and complete, and each example gives what is shown."""

from __future__ import annotations

import re

import pytest
from helpers import reference, sql_entries
from helpers.paths import REPO

import pg_llm

STALE = "out of date; python tests/build_reference.py writes it anew"


@pytest.mark.parametrize("path", reference.PAGES, ids=["sql", "python", "guide"])
def test_the_page_is_current(server, path):
    now = reference.current(path)
    assert path.read_text().splitlines() == now.splitlines(), f"{path.relative_to(REPO)} is {STALE}"


def test_each_file_and_name_has_its_place():
    """Every file of extension/sql with something public, and every name of pg_llm, is on its page once."""
    files = {file for file, _, name in sql_entries.reading_order() if not name.startswith("_llm_")}
    assert sorted(reference.markers(reference.SQL_PAGE.read_text())) == sorted(files | {"settings"})
    named = reference.markers(reference.PYTHON_PAGE.read_text())
    assert sorted(named) == sorted({*pg_llm.__all__, "commands"} - {"load_ipython_extension"})


def test_messages_of_the_guide_are_in_the_sources():
    """Troubleshooting is by the text of an error; … stands for what differs."""
    foreign = {  # PostgreSQL's own
        "function pg_llm_add(unknown, unknown) is not unique",
        'temporary file size exceeds "temp_file_limit"',
        '… violates foreign key constraint "llm_param_share_source_model_fkey"',
    }
    guide = (REPO / "pg_llm" / "GUIDE.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", guide.partition("## Troubleshooting")[2], re.MULTILINE)
    messages = [message for row in rows for message in re.findall("`(.+?)`", row)]
    folders = (("extension", "*.c"), ("extension", "*.sql"), ("pg_llm", "*.py"))
    files = [path for folder, kind in folders for path in (REPO / folder).rglob(kind)]
    source = "".join(path.read_text() for path in files).replace('\\"', '"')
    pieces = {max(message.split("…"), key=len) for message in {*messages} - foreign}
    assert len(messages) > 10
    assert sorted(piece for piece in pieces if piece not in source) == []


def test_each_public_object_has_an_example(conn):
    """Functions, types, tables and views by name, operators by their sign."""
    page = reference.SQL_PAGE.read_text()
    examples = "".join(found[2] for found in reference.EXAMPLE.finditer(page))
    words = {*re.findall(r"\w+|[-+*/@<>=~^]+", re.sub(r"^-->.*", "", examples, flags=re.MULTILINE))}
    objects = [item for items in sql_entries.public_objects(conn).values() for item in items]
    assert sorted({sql_entries.name_of(conn, *item) for item in objects} - words) == []
