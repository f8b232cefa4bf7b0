"""Hints at usual mistakes: what a learner may have meant, from an error and the statement that raised it.

Nothing here changes what is executed. A statement is known by `with about(…)`; describe() in magic.py asks.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from pg_llm.notebook import sqltext

COMMANDS = frozenset(
    """abort alter analyze begin call commit copy create delete drop explain grant insert merge refresh
    release reindex reset revoke rollback savepoint select set show start table truncate update vacuum values
    with""".split()
)
CLAUSES = "from where group order by having limit offset join left using distinct"
KEYWORDS = sorted({*COMMANDS, *CLAUSES.split()})
PYTHON = frozenset("import print def for class if while try assert lambda return".split())
PARAMETER = re.compile(r"\$\d+\b")
CURLY = "‘’‚‛“”„‟′″"
_WRITTEN = "_pg_llm_written"
# Nearly `%%sql name <<`: name =<<, name <, name = SELECT …, two words <<, << name.
_NEARLY_NAMED = re.compile(
    r"\s*(?:([^\W\d]\w*)\s*(?::?=\s*(?:<|$|(?:select|with|values|table)\b)|<|>>)"
    r"|([^\W\d]\w*)\s+[\w ]+<<|<+[ \t]*([^\W\d]\w*)?)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Written:
    """A statement as its author wrote it, the variables it could name, and how to pass it one."""

    text: str
    known: Mapping[str, Any]
    conn: psycopg.Connection
    is_cell: bool  # of %%sql, where each Python variable is known; else of pg_llm.sql(…, name=value)

    @property
    def marks(self) -> list[tuple[int, str, str]]:
        """Where text differs from what was sent: position, what is there, and the name of a parameter."""
        found = [(c.start, f":{n}", n) for n, c in sqltext.names(self.text) if n in self.known]
        if not self.is_cell and self.known:
            psycopgs = [(m.start(), m[0], m[1] or "") for m in sqltext.PSYCOPGS.finditer(self.text)]
            if not found or any(name for _, _, name in psycopgs):
                found = sorted(found + psycopgs)
        return found

    @property
    def parameters(self) -> dict[str, str]:
        """The names that were sent as $1, $2 and so on, and how they are written."""
        return {name: shown for _, shown, name in reversed(self.marks) if name}

    @property
    def numbers(self) -> dict[str, str]:
        """Name to $1, $2 and so on."""
        names = dict.fromkeys(name for _, _, name in self.marks if name)
        return {name: f"${i}" for i, name in enumerate(names, 1)}

    def place(self, sent: int) -> int:
        """The index in text of a position, counted from 1, of what was sent."""
        numbers, longer = self.numbers, 0  # the characters by which text is longer up to here
        for start, shown, name in self.marks:
            length = len(numbers.get(name, "%"))
            if sent - 1 < start - longer:
                break
            if sent - 1 < start - longer + length:
                return start
            longer += len(shown) - length
        return sent - 1 + longer

    def named(self, text: str) -> str:
        """An error's text with :name for $1."""
        shown, names = self.parameters, {number: name for name, number in self.numbers.items()}
        return PARAMETER.sub(lambda m: shown[names[m[0]]] if m[0] in names else m[0], text)


@contextlib.contextmanager
def about(
    text: str, known: Mapping[str, Any], conn: psycopg.Connection, is_cell: bool = True
) -> Iterator[None]:
    """Gives an error of the block what hints need."""
    try:
        yield
    except psycopg.Error as error:
        vars(error)[_WRITTEN] = Written(text, known, conn, is_cell)
        raise


def written(error: psycopg.Error) -> Written | None:
    """What was being executed, if about() knows."""
    return vars(error).get(_WRITTEN)


def line(error: psycopg.Error) -> str:
    """The line of the statement with a mark below it, as psql shows them; empty without a position."""
    found = written(error)
    if found is None or not found.marks or not error.diag.statement_position:
        # psycopg's own text contains them.
        match = re.search(r"^LINE \d+: .*\n.*\^", str(error), re.MULTILINE)
        return match[0] if match else ""
    at = found.place(int(error.diag.statement_position))
    begin = found.text.rfind("\n", 0, at) + 1
    head = f"LINE {found.text.count(chr(10), 0, at) + 1}: "
    return f"{head}{found.text[begin:].splitlines()[0]}\n{' ' * (len(head) + at - begin)}^"


def hints(error: psycopg.Error) -> list[str]:
    """What the learner may have meant, a sentence each; none where nothing usual is seen."""
    found = written(error)
    if found is None:
        return []
    tokens = [t for t in sqltext.tokens(found.text) if t.kind not in ("space", "comment")]
    if error.diag.statement_position:
        at = found.place(int(error.diag.statement_position))
        index = next((i for i, t in enumerate(tokens) if t.end > at), len(tokens))
    else:
        index = len(tokens)
    mistake = Mistake(error, found, tokens, index)
    kind = KINDS.get(error.sqlstate or "")
    return [hint for hint in (kind(mistake) if kind else other(mistake)) if hint]


@dataclass(frozen=True)
class Mistake:
    """An error with the tokens of its statement, and the index of the one that the server points at."""

    error: psycopg.Error
    written: Written
    tokens: list[sqltext.Token]
    index: int

    def text(self, offset: int = 0) -> str:
        """The token at that distance from the marked one; empty beyond the ends."""
        at = self.index + offset
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def kind(self, offset: int = 0) -> str:
        """Its kind."""
        at = self.index + offset
        return self.tokens[at].kind if 0 <= at < len(self.tokens) else ""

    @property
    def message(self) -> str:
        """The server's message."""
        return self.error.diag.message_primary or ""

    def variable(self, name: str) -> bool:
        """True if a Python variable of that name could be a parameter."""
        value = self.written.known.get(name)
        return value is not None and not name.startswith("_") and not callable(value) and _plain(value)

    def rows(self, query: str) -> list[tuple]:
        """The rows of a query on the catalog; none after an error in a transaction, which answers nothing."""
        conn = self.written.conn
        if conn.closed or conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            return []
        with contextlib.suppress(psycopg.Error), conn.transaction():
            return conn.execute(query.encode()).fetchall()
        return []


def _plain(value: object) -> bool:
    """True for data: no module, no result of %%sql."""
    return type(value).__name__ not in ("module", "Result")


def similar(name: str, names: Iterable[str], cutoff: float = 0.8) -> list[str]:
    """Those of names that may have been meant: with something_ before the name, or nearly its letters."""
    names = list(names)
    longer = sorted((n for n in names if n.endswith(f"_{name}") and len(name) > 2), key=len)
    return list(dict.fromkeys([*longer, *difflib.get_close_matches(name, names, 3, cutoff)]))[:3]


def meant(names: list[str]) -> str:
    """'did you mean a or b?', empty for none."""
    return f"did you mean {' or '.join(names)}?" if names else ""


# -- by SQLSTATE ----


def syntax(m: Mistake) -> Iterator[str]:
    """42601: what stands at the mark is no SQL."""
    first = m.tokens[0].text.lower() if m.tokens else ""
    named = _NEARLY_NAMED.match(m.written.text)
    if m.written.is_cell and named and (named[1] or named[2] or "").lower() not in COMMANDS:
        yield f"%%sql {named[1] or named[3] or 'name'} << is how the result goes to a Python variable"
    elif first == "\\":
        yield backslash(m.written.text[m.tokens[0].start :])
    elif m.text() == "%" and m.text(1) == "(" and m.text(-1).lower() == "in":
        yield from refused(m, m.text(2))
    elif m.text() == "%" and m.text(1) == "(":
        yield f"a Python variable is :{m.text(2)}, not %({m.text(2)})s"
    elif first == "%" or m.text() in ("%", "%%"):
        yield "%%sql and %sql are no SQL: %%sql is the first line of a cell, once"
    elif first in PYTHON or (len(m.tokens) > 1 and m.tokens[0].kind == "word" and m.tokens[1].text == "="):
        yield "this is Python: it has a cell of its own, without %%sql"
    elif (
        m.text() == "["
        and m.index
        and m.tokens[m.index - 1].end == m.tokens[m.index].start
        and (m.kind(-1) not in ("mark", "operator"))
    ):
        yield "an element of an expression: (expression)[1]; of a tensor: tensor_get(t, 0)"
    elif m.text() == "[":
        yield "a list is ARRAY[1, 2]; a tensor is tensor '[1, 2]'"
    elif m.text() == ":" and m.text(1) in m.written.parameters:
        yield from refused(m, m.text(1))
    elif m.text() == ":" and m.kind(1) == "word":
        yield from unknown(m, m.text(1))
    elif m.text() == ":" and m.text(1) == ":" or m.text() == "::":
        yield from sliced(m)
    elif m.text() == ":" and m.kind(1) == "string":
        yield f"a Python variable is :name, without quotes: :{m.text(1)[1:-1]}"
    elif m.text() == "{" and m.kind(1) == "word":
        yield f"a Python variable is :{m.text(1)}, without braces"
    elif m.text() == "$" and m.kind(1) == "word":
        yield f"a Python variable is :{m.text(1)}, not ${m.text(1)}"
    elif m.text(-1).lower() == "in" and m.variable(m.text()):
        yield from refused(m, m.text())
    elif m.kind() == "word" and m.text().lower() not in KEYWORDS:
        yield meant([word.upper() for word in similar(m.text().lower(), KEYWORDS, 0.75)])
    elif m.index == len(m.tokens) and sum((t.text == "(") - (t.text == ")") for t in m.tokens) > 0:
        yield "a parenthesis is open: there are more ( than )"


def refused(m: Mistake, name: str) -> Iterator[str]:
    """A parameter where the grammar wants something else."""
    before = m.text(-1).lower()
    if before == "in":
        instead, then = ("<> ALL", "NOT IN") if m.text(-2).lower() == "not" else ("= ANY", "IN")
        yield f"the elements of a list: {instead}(:{name}) in place of {then} :{name}"
    elif before in ("from", "join", "into", "update", "table", "view", "only", "exists", "function"):
        yield f":{name} is a value, not a name; write the name itself, or read a list by unnest(:{name})"
    else:
        yield (
            f":{name} is a value: it can stand in SELECT, VALUES, INSERT, UPDATE, DELETE, where a number or "
            "a text could, and not in other commands nor for a name"
        )


def unknown(m: Mistake, name: str) -> Iterator[str]:
    """:name without a variable of that name."""
    if not m.written.is_cell:
        yield f"the value of `:{name}` is an argument: pg_llm.sql(…, {name}=…)"
        return
    others = [other for other in m.written.known if m.variable(other)]
    close = [f":{other}" for other in similar(name, others)]
    yield f"is `:{name}` meant as a Python variable? There is none of that name." + (
        f" {meant(close).capitalize()}" if close else ""
    )


def sliced(m: Mistake) -> Iterator[str]:
    """[1:x] or [1::x] with a Python variable x."""
    name = m.text() if m.kind() == "word" else m.text(1)
    if m.variable(name):
        yield f"a slice up to a Python variable has spaces: [1 : :{name}]"


def column(m: Mistake) -> Iterator[str]:
    """42703: a name that is no column."""
    token = m.text()
    if set(token) & set(CURLY) or set(m.message) & set(CURLY):
        yield "quotes are straight in SQL: 'text'"
    elif m.kind() == "quoted":
        yield f"double quotes are for names; a text has single ones: {_literal(token[1:-1])}"
    elif m.text(-1) == ":" and m.variable(token):
        yield from sliced(m)
    elif m.variable(token):
        yield (
            f"a Python variable is a parameter, with a colon: :{token}"
            if m.written.is_cell
            else (f"an argument is a parameter, with a colon: :{token}")
        )
    elif token.lower() == "none":
        yield "Python's None is NULL in SQL"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def schema(m: Mistake) -> Iterator[str]:
    """3F000: a prefix that is no schema."""
    name = re.match(r'schema "(.*)" does not exist', m.message)
    if name and type(m.written.known.get(name[1])).__name__ == "module":
        yield f"{name[1]} is a Python module; functions of SQL are called without it"


def function(m: Mistake) -> Iterator[str]:
    """42883: no function or operator of that name for these types."""
    called = re.match(r"(?:function|procedure) ([^()]+)\((.*)\) does not exist", m.message)
    operator = re.match(r"operator does not exist: (.*?) ?([^\w\s\[\]().,\"]+) (.*)", m.message)
    if operator:
        left, sign, right = operator.groups()
        instead = {"==": "=", "&&": "AND", "**": "^", "//": "/"}.get(sign)
        if sign == "=" and "[]" in left + right and m.written.parameters:
            yield "to be in a list: x = ANY(:list), not x IN (:list)"
        elif sign == "||" and "tensor" in (left, right):
            yield "tensors are joined by concat(ARRAY[a, b], axis => 0)"
        elif "tensor" in (left, right):
            yield (
                "tensors have + - * / @ = <>, and ^ < <= > >= with a number on the right; "
                "tensor_rows(t) gives their elements as rows"
            )
        elif instead:
            yield f"this is {instead} in SQL"
    elif called:
        name, types = called[1].rpartition(".")[2].strip('"'), called[2]
        query = (
            "SELECT proname, pg_get_function_arguments(oid) FROM pg_proc WHERE pg_function_is_visible(oid) "
            "AND pronamespace <> 'pg_catalog'::regnamespace AND proname !~ '^_' ORDER BY proname, oid"
        )
        functions = m.rows(query)
        same = [f"{n}({arguments})" for n, arguments in functions if n == name]
        others = similar(name, sorted({n for n, _ in functions}))
        if name == "len":
            yield "it is length(text), cardinality(array), numel(tensor)"
        elif same:
            yield f"there is {'; '.join(same[:3])}"
        elif others:
            yield meant(others)
        elif "tensor" in types.split(", "):
            yield "tensor_rows(t) gives a tensor's elements as rows (idx, value), for functions of numbers"
        else:
            names = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
            yield meant(similar(name, [n for (n,) in m.rows(names)], 0.82))


def relation(m: Mistake) -> Iterator[str]:
    """42P01: no table of that name."""
    named = re.match(r'relation "(.*)" does not exist', m.message)
    name = named[1] if named else ""
    value = m.written.known.get(name)
    if hasattr(value, "to_sql"):
        yield f"a data frame becomes a table by %sql --persist {name}"
        return
    query = (
        "SELECT relname FROM pg_class WHERE pg_table_is_visible(oid) AND relkind IN ('r', 'v', 'm', 'p', 'f')"
    )
    names = sorted(n for (n,) in m.rows(query))
    others = similar(name, [n for n in names if not n.startswith("pg_")])
    if others:
        yield meant(others)
    elif m.variable(name):
        yield f"the elements of a Python list are rows of unnest(:{name})"


def thing(m: Mistake) -> Iterator[str]:
    """42704: no model, tokenizer or type of that name."""
    model = re.search(r'\b(?:no model|tokenizer (?:for|of) model) "(.*?)"', m.message)
    kind = re.match(r'type "(.*)" does not exist', m.message)
    if model:
        holder = "llm_bpe_vocab" if "tokenizer" in m.message else "llm_param"
        names = m.rows(f"SELECT DISTINCT model FROM {holder} ORDER BY model")
        yield meant(similar(model[1], [n for (n,) in names], 0.7))
    elif kind and m.text(-1) == "::" and m.variable(m.text()):
        yield from sliced(m)
    elif kind:
        query = (
            "SELECT typname FROM pg_type WHERE pg_type_is_visible(oid) AND typname !~ '^_' AND typtype <> 'c'"
        )
        yield meant(similar(kind[1], [n for (n,) in m.rows(query)]))


def untyped(m: Mistake) -> Iterator[str]:
    """42P18: the type of a parameter cannot be told."""
    number = PARAMETER.search(m.message)
    if number:
        name = m.written.named(number[0])
        yield f"name the type of {name}, as in {name}::integer or {name}::text"


def kept(m: Mistake) -> Iterator[str]:
    """42P02: what is stored cannot contain a parameter."""
    yield "definitions (of a view, a default, an index …) and EXECUTE take no :name: write the value itself"


def unsupported(m: Mistake) -> Iterator[str]:
    """0A000: of many things, a parameter in a materialized view."""
    if "bound parameters" in m.message:
        yield from kept(m)


def subscript(m: Mistake) -> Iterator[str]:
    """42804: the subscript of a tensor."""
    if "subscript type tensor" in m.message:
        yield "an element of a tensor is tensor_get(t, 0), a part slice(t, …); both count from 0"


def whole(m: Mistake) -> Iterator[str]:
    """42846: GREATEST of a tensor and a number."""
    chosen = re.match(r"(GREATEST|LEAST) could not convert", m.message)
    if chosen and "tensor" in m.message:
        name = {"GREATEST": "maximum", "LEAST": "minimum"}[chosen[1]]
        yield f"{name}(a, b) chooses element by element; {chosen[1]} chooses a tensor as a whole"


def referenced(m: Mistake) -> Iterator[str]:
    """23503: deleting a model whose parameters are also another's, as those of a LoRA's base are."""
    base = re.match(r"Key \(model\)=\((.*)\) is still referenced", m.error.diag.message_detail or "")
    if base is None or m.error.diag.table_name != "llm_param_share":
        return
    share = f"llm_param_share WHERE source_model = {_literal(base[1])}"
    users = [name for (name,) in m.rows(f"SELECT DISTINCT target_model FROM {share} ORDER BY 1")]
    yield (
        f"{', '.join(users) or 'another model'} uses its parameters, as LoRA does those of its base: delete "
        f"that first, or give it copies: SELECT llm_unshare_param(target_model, target_name) FROM {share}"
    )


def spilled(m: Mistake) -> Iterator[str]:
    """53400: temporary files of more than temp_file_limit."""
    if "temp_file_limit" in m.message:
        yield (
            "a sort, a GROUP BY or a join wrote rows to disk, and a row has all elements of its tensors: "
            "sort, group and join by names or ids, and read the tensors of the rows that are left; is a join "
            "condition missing? A superuser may allow more: SET temp_file_limit = '8GB'"
        )


def undecodable(m: Mistake) -> Iterator[str]:
    """22021: bytes that are no characters; a database in SQL_ASCII keeps any."""
    if m.rows("SELECT WHERE current_setting('server_encoding') = 'SQL_ASCII'"):
        yield (
            "texts of this database are bytes of any encoding (SQL_ASCII); SET client_encoding = 'LATIN1', "
            "or to the encoding that these are in, shows them"
        )


def deadlock(m: Mistake) -> Iterator[str]:
    """40P01: the sessions that waited for each other, by the names of their notebooks."""
    found = re.findall(r"Process (\d+) waits", m.error.diag.message_detail or "")
    query = (
        "SELECT format('process %s is %s', pid, application_name) FROM pg_stat_activity "
        f"WHERE application_name <> '' AND pid <> pg_backend_pid() AND pid IN ({', '.join(found) or 'NULL'})"
    )
    yield "; ".join(name for (name,) in m.rows(query))


def other(m: Mistake) -> Iterator[str]:
    """Errors that psycopg raises itself, without a code."""
    adapt = re.match(r"cannot adapt type '(\w+)'", str(m.error))
    if adapt:
        names = m.written.parameters.items()
        shown = [text for n, text in names if type(m.written.known.get(n)).__name__ == adapt[1]]
        head = f"{' and '.join(shown)}: a" if shown else "a"
        yield f"{head} value of type {adapt[1]} cannot be a parameter; numbers, texts, lists, dicts can"


KINDS: Mapping[str, Callable[[Mistake], Iterator[str]]] = {
    "42601": syntax,
    "42703": column,
    "42883": function,
    "42P01": relation,
    "42704": thing,
    "3F000": schema,
    "42P18": untyped,
    "42P02": kept,
    "0A000": unsupported,
    "42804": subscript,
    "42846": whole,
    "22021": undecodable,
    "23503": referenced,
    "53400": spilled,
    "40P01": deadlock,
}


def backslash(text: str) -> str:
    """What shows in SQL what a command of psql would."""
    command, *names = text.strip().splitlines()[0].split()
    name = " ".join(names)
    queries = {
        "\\d": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        "\\l": "SELECT datname FROM pg_database",
        "\\df": "SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'llm%'",
        "\\du": "SELECT rolname FROM pg_roles",
        "\\dx": "SELECT extname, extversion FROM pg_extension",
        "\\dn": "SELECT nspname FROM pg_namespace",
    }
    if command in ("\\d", "\\d+") and name:
        columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name ="
        query = f"{columns} {_literal(name)}"
    else:
        # Other lists, as \dt and \dv, are of tables too; \x, \i and their kin show nothing.
        query = queries.get(command.rstrip("+"), queries["\\d"] if command.startswith("\\d") else "")
    here = f"; here: {query}" if query else ""
    return f"{command} is a command of psql (pg-llm psql in a terminal){here}"


# -- cells that never become SQL ----


def of_cell(cell: str, error: BaseException | None) -> str:
    """A hint for a cell that failed in Python; empty for none."""
    if error is None:
        return ""
    head, _, rest = cell.lstrip().partition("\n")
    word = (re.match(r"\w+", head) or [""])[0]
    undefined = error.name if isinstance(error, NameError) else ""
    if word.lower() in COMMANDS and (isinstance(error, SyntaxError) or undefined == word):
        return "a cell of SQL begins with the line %%sql"
    if undefined == "pg_llm":
        return "run the first cell of the notebook, or: import pg_llm"
    later = re.search(r"^%%(sql|check)\b", rest, re.MULTILINE | re.IGNORECASE)
    if later and not head.startswith("%%"):
        return f"{later[0].lower()} is the first line of its cell"
    magic = re.match(r"%%?(sql|check|pg_llm)\b", head, re.IGNORECASE)
    if magic and "not found" in str(error):
        return f"its name is {magic[0].lower()}"
    return ""
