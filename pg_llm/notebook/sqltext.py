"""Reads SQL text like PostgreSQL's lexer, to find the ends of statements and the :names of variables.

Text in quotes, in comments or between dollar signs is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?:"|\Z))
    | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
    | (?P<number>\d[\w.]*|\.\d[\w.]*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<param>\$\d+)
    | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
    | (?P<mark>::|:=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_NESTED = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Token:
    """kind: space, comment, string, quoted, dollar, number, word, param, operator or mark."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """The position after the last character."""
        return self.start + len(self.text)


def tokens(sql: str) -> Iterator[Token]:
    """Every character of sql once, in order."""
    at = 0
    while at < len(sql):
        if sql.startswith("/*", at):
            kind, end = "comment", _comment_end(sql, at)
        else:
            found = _TOKEN.match(sql, at)
            assert found and found.lastgroup  # its last alternative matches any character
            kind, end = "dollar" if found.lastgroup == "tag" else found.lastgroup, found.end()
        yield Token(kind, sql[at:end], at)
        at = end


def _comment_end(sql: str, start: int) -> int:
    """The end of a block comment; in PostgreSQL they nest."""
    depth = 0
    for mark in _NESTED.finditer(sql, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def split(sql: str) -> list[str]:
    """The statements of sql without their semicolons; pieces of only space and comments are omitted."""
    statements: list[str] = []
    words: list[str] = []
    begin, depth, blocks, told = 0, 0, 0, False

    def close(end: int) -> None:
        if told:
            statements.append(sql[begin:end].strip())

    for token in tokens(sql):
        if token.kind in ("space", "comment"):
            continue
        if token.text == ";" and depth <= 0 and blocks == 0:
            close(token.start)
            begin, depth, words, told = token.end, 0, [], False
            continue
        told = True
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "mark" else 0
        if token.kind == "word":
            word = token.text.lower()
            words = words if len(words) == 4 else [*words, word]
            if words[0] == "create" and {"function", "procedure"} & set(words):
                # The statements of a BEGIN ATOMIC body belong to the function.
                blocks += (
                    1
                    if word == "begin" or (word == "case" and blocks)
                    else -1
                    if word == "end" and blocks
                    else 0
                )
    close(len(sql))
    return statements


def names(sql: str) -> Iterator[tuple[str, Token]]:
    """Yields each `:name` that may be a variable, with its colon; never `::type`, `[1:n]` or a quoted one."""
    before = colon = None
    for token in tokens(sql):
        if token.kind == "word" and colon is not None:
            yield token.text, colon
        glued = before is not None and (
            before.kind in ("word", "number", "param", "quoted") or before.text in ")]"
        )
        colon = token if token.text == ":" and token.kind == "mark" and not glued else None
        before = token


def any_of(sql: str, lists: Collection[str]) -> str:
    """sql with = ANY(:name) for IN :name, and <> ALL(:name) for NOT IN :name, where name is one of lists.

    IN takes a list of expressions, never an array; psycopg 2 and SQLAlchemy expand a tuple there.
    """
    pieces, at = [], 0
    read = [token for token in tokens(sql) if token.kind not in ("space", "comment")]
    for i, token in enumerate(read):
        parameter = _PARAMETER.match(sql, read[i + 1].start) if i + 1 < len(read) else None
        if token.text.lower() != "in" or not parameter or (parameter[1] or parameter[2]) not in lists:
            continue
        negated = i > 0 and read[i - 1].text.lower() == "not"
        start = read[i - 1].start if negated else token.start
        pieces += [sql[at:start], "<> ALL(" if negated else "= ANY(", parameter[0], ")"]
        at = parameter.end()
    return "".join([*pieces, sql[at:]])


_PARAMETER = re.compile(r":(\w+)|%\((\w+)\)s")
PSYCOPGS = re.compile(r"%\((\w+)\)[sbt]|%%")  # what psycopg replaces in a query with named parameters


def bind(sql: str, known: Callable[[str], bool] | Mapping, psycopgs: bool = False) -> tuple[str, list[str]]:
    """sql with psycopg's %(name)s for each known :name, and those names; unchanged if there are none.

    psycopgs: sql may itself contain %(name)s; then its percent signs are doubled already.
    """
    is_known = known if callable(known) else known.__contains__
    found = [(name, colon) for name, colon in names(sql) if is_known(name)]
    if not found:
        return sql, []
    double = "%" if psycopgs and any(m[1] for m in PSYCOPGS.finditer(sql)) else "%%"
    pieces, at = [], 0
    for name, colon in found:
        pieces += [sql[at : colon.start].replace("%", double), f"%({name})s"]
        at = colon.end + len(name)
    pieces.append(sql[at:].replace("%", double))
    return "".join(pieces), [name for name, _ in found]
