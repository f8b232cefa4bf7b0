"""load_names(): 94,293 American names as rows, real text that a small model learns in seconds.

The lists of the US census of 1990 (public domain), as the package `names` 0.3.0 on PyPI has them.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pg_llm.errors import KitError
from pg_llm.notebook import session

FILE = Path(__file__).with_name("names.csv.gz")
COLUMNS = ["name", "list", "percent"]


def load_names(conn: psycopg.Connection | None = None, table: str = "name") -> int:
    """Makes the table `name` (name, list, percent) anew and returns its number of rows, 94,293.

    list: 'female' (4,275 first names), 'male' (1,219) or 'surname' (88,799); a name can be in several.
    percent: of the people counted in the United States in 1990, how many have it; the census gives three
    decimals, and 0 for the rarest.
    Errors: KitError where `table` is a table of another kind, which stays as it is. Example: load_names()
    """
    named = sql.Identifier(table)
    with (
        session.connection(conn) as chosen,
        chosen.transaction(),
        chosen.cursor(row_factory=tuple_row) as cursor,
    ):
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [named.as_string(chosen)])
        if cursor.fetchone() == (True,):
            cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(named))
            found = [column.name for column in cursor.description or ()]
            if found != COLUMNS:
                raise KitError(
                    f"there is a table {table} with the columns {', '.join(found)}, which is not one of "
                    "names; give another name for theirs, as in load_names(table='census')"
                )
            cursor.execute(sql.SQL("TRUNCATE {}").format(named))
        else:
            cursor.execute(sql.SQL("CREATE TABLE {} (name text, list text, percent real)").format(named))
        with cursor.copy(sql.SQL("COPY {} FROM STDIN (FORMAT csv, HEADER)").format(named)) as copy:
            copy.write(gzip.decompress(FILE.read_bytes()))
        return cursor.rowcount
