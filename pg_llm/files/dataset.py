"""Loads text files of any length into llm_dataset: read here and encoded by the server in pieces.

The rows are those that llm_dataset_load makes from the same texts in the database (src/training/dataset.c).
"""

from __future__ import annotations

import codecs
import difflib
import glob
import itertools
import math
import re
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import psycopg
from psycopg import adapt, pq
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.files import token_file

DEFAULT = "default"  # on which a model trains that has no dataset of its own
HELD_OUT = "-validation"
LONGEST_BLOCK = 2**20
# Characters encoded at a time, and bytes read at a time.
PIECE = 2**18
READ = 2**18
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_INT4, _INT4_ARRAY = 23, 1007


class Prepared(NamedTuple):
    """What prepare_dataset wrote; end_token is None if the tokenizer has none for the end of a document."""

    documents: int
    tokens: int
    rows: int
    validation_rows: int
    block_size: int
    end_token: int | None


def prepare_dataset(
    conn: psycopg.Connection,
    inputs: Iterable[str | Path],
    tokenizer: str,
    dataset: str = DEFAULT,
    *,
    block_size: int | None = None,
    overlap: int = 0,
    batch_size: int = 512,
    validation: float = 0.0,
    separator: str | None = None,
    special: bool = False,
    truncate: bool = False,
    progress: bool = True,
) -> Prepared:
    """Encodes files (globs, '-' for standard input) into rows of llm_dataset, all or nothing.

    Ids that others have encoded are read from .bin and .npy files (nanoGPT, build-nanogpt, llm.c).
    Each file is a document; separator, a text, splits files into several. batch_size rows are sent to the
    server at a time. The other arguments are llm_dataset_load's.
    Errors: KitError for arguments and files, psycopg.Error from the server.
    Example: prepare_dataset(conn, ["books/*.txt"], "gpt2", "books", block_size=1024, validation=0.1)
    """
    sources = find_inputs(inputs)
    if not dataset:
        raise KitError("a dataset's name cannot be empty")
    if batch_size < 1:
        raise KitError(f"batch_size is {batch_size}, expected 1 or more")
    if separator == "":
        raise KitError("the separator is empty; leave it out to have one document a file")
    with conn.transaction(), conn.cursor(binary=True, row_factory=tuple_row) as cursor:
        cursor.adapters.register_loader(_INT4_ARRAY, _Ints)
        _need_tokenizer(cursor, tokenizer)
        block_size = _block_size(cursor, tokenizer, block_size)
        end = catalog.value(conn, catalog.qualified(conn, "SELECT {0}.llm_end_token(%s)"), [tokenizer])
        blocks = Blocks(block_size, overlap, validation, end)
        if truncate:
            names = [dataset, dataset + HELD_OUT]
            delete = "DELETE FROM {0}.llm_dataset WHERE dataset = ANY(%s)"
            cursor.execute(catalog.qualified(conn, delete), [names])
        _need_same_length(cursor, dataset, block_size)
        documents = 0
        with _progress_bar(sources, dataset, progress) as bar:
            for source in sources:
                if token_file.is_token_file(source):
                    pieces_of_ids = token_file.read(cursor, tokenizer, source, end, bar)
                else:
                    pieces_of_ids = _encode(cursor, tokenizer, special, source, separator, bar)
                for ids, ends in pieces_of_ids:
                    blocks.add(ids)
                    if ends:
                        blocks.end_document()
                        documents += 1
                    _copy(cursor, dataset, blocks.take(), batch_size)
        _copy(cursor, dataset, blocks.take_rest(), batch_size)
    if documents == 0:
        raise KitError(f"there is no text in {', '.join(map(str, sources))}")
    return Prepared(documents, blocks.tokens, blocks.rows, blocks.held_out, block_size, end)


def find_inputs(inputs: Iterable[str | Path]) -> list[str | Path]:
    """The files for names and patterns, those of a pattern in order; '-' is standard input.

    >>> find_inputs(["-"])
    ['-']
    """
    found: list[str | Path] = []
    for name in map(str, inputs):
        path = Path(name).expanduser()
        if name == "-":
            found.append(name)
        elif path.is_file():
            found.append(path)
        elif path.is_dir():
            raise KitError(f"{name} is a folder; name its files: '{name.rstrip('/')}/*.txt'")
        else:
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            files = [match for match in matches if match.is_file()]
            if not files:
                raise KitError(f"there is no file {name}")
            found += files
    if not found:
        raise KitError("there is no input; name files, patterns such as 'books/*.txt', or '-'")
    if found.count("-") > 1:
        raise KitError("standard input ('-') can be read only once")
    return found


# -- text, a piece at a time ---------------------------------------------------------------


def cut(text: str, limit: int, whole: Collection[str] = ()) -> int:
    """The last position below limit at which each tokenizer's pattern starts a new piece; 0: none.

    Text cut there has the same tokens as the whole: before a space or a tab that follows another character,
    after a newline that stands alone, or between an ASCII letter or digit and another ASCII character; and
    not inside a text of `whole`, the tokens that are found as they are.

    >>> cut("one two three", 13)
    7
    """
    for at in range(limit - 1, 0, -1):
        before, after = text[at - 1], text[at]
        if (
            (after in " \t" and not before.isspace())
            or (before in "\n\r" and not after.isspace() and not text[at - 2 : at - 1].isspace())
            or (_WORD.match(before) and after < "\x80" and not _WORD.match(after))
        ) and not any(text.find(w, max(0, at - len(w) + 1), at + len(w) - 1) >= 0 for w in whole):
            return at
    return 0


_WORD = re.compile("[A-Za-z0-9]")


def pieces(
    texts: Iterable[str], separator: str | None = None, whole: Collection[str] = ()
) -> Iterator[tuple[str, bool]]:
    """Splits text into (piece, True if a document ends with it); pieces are encoded one by one."""
    text, looked = "", 0
    # The end of the buffer may be the start of a separator.
    hold = len(separator) - 1 if separator else 0
    for more in texts:
        text += more
        if separator:
            *whole, text = text.split(separator)
            for document in whole:
                yield document, True
            looked = 0 if whole else looked
        limit = len(text) - hold
        if limit - looked > PIECE:
            at = cut(text, limit, whole)
            if at:
                yield text[:at], False
                text = text[at:]
            # A text without such a position is scanned again once it is twice as long.
            looked = 0 if at else limit
    yield text, True


def _encode(
    cursor, tokenizer: str, special: bool, source, separator: str | None, bar
) -> Iterator[tuple[np.ndarray, bool]]:
    conn = cursor.connection
    query = catalog.qualified(conn, "SELECT {0}.llm_encode(%s, %s, %s)")
    marked = (
        "SELECT convert_from(v.bytes, 'UTF8') FROM {0}.llm_bpe_vocab AS v "
        "WHERE v.model = {0}.llm_tokenizer(%s) "
        "AND CASE WHEN {0}._llm_is_special(v) THEN %s ELSE v.added END"
    )
    whole = [text for (text,) in conn.execute(catalog.qualified(conn, marked), [tokenizer, special])]
    empty = True  # nothing of this document has been read yet
    for piece, ends in pieces(_read(source, bar), separator, whole):
        if piece:
            (ids,) = cursor.execute(query, [piece, tokenizer, special]).fetchone()
            empty = False
            yield ids, ends
        elif ends and not empty:
            yield np.empty(0, np.int32), True
        empty = empty or ends


def _read(source: str | Path, bar) -> Iterator[str]:
    name = "standard input" if source == "-" else str(source)
    try:
        if source == "-":
            yield from _decode(sys.stdin.buffer, name, bar)
        else:
            with open(source, "rb") as file:
                yield from _decode(file, name, bar)
    except OSError as error:
        raise KitError(f"cannot read {name}: {error.strerror}") from None


def _decode(file: BinaryIO, name: str, bar) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    while True:
        data = file.read(READ)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            where = at - pending + error.start
            has_mark = where == 0 and error.object[0] in (0xFE, 0xFF)
            encoding = "UTF-16" if has_mark else "LATIN1"
            raise KitError(
                f"{name} is not UTF-8: byte {where} is 0x{error.object[error.start]:02x}; "
                f"convert it first: iconv -f {encoding} -t UTF-8"
            ) from None
        if at == pending:  # the first text: a byte order mark is no part of it
            text = text.removeprefix("\ufeff")
        if "\0" in text:
            raise KitError(
                f"{name} holds a NUL character, which PostgreSQL's text cannot; is it a text file?"
            )
        if not data:
            return
        at += len(data)
        yield text
        bar.update(len(data))


def _progress_bar(sources: list, label: str, show: bool):
    """A tqdm bar over the bytes of the files, shown only if they take over two seconds."""
    from tqdm.auto import tqdm

    total = None if "-" in sources else sum(path.stat().st_size for path in sources)
    return tqdm(total=total, unit="B", unit_scale=True, desc=label, delay=2, leave=False, disable=not show)


# -- rows ----------------------------------------------------------------------------------


class Row(NamedTuple):
    """tokens (T) and target (T), int32; held_out: for validation."""

    tokens: np.ndarray
    target: np.ndarray
    held_out: bool


class Blocks:
    """One stream of ids, cut into rows of `block` tokens; each row's target is the row shifted by one.

    Every token is the target of one row: those that a row repeats from the one before are context only.
    """

    def __init__(self, block: int, overlap: int, validation: float, end: int | None):
        if not 0 <= overlap < block:
            raise KitError(f"overlap is {overlap}, expected 0 to {block - 1}, less than the block size")
        if not 0 <= validation < 1:
            raise KitError(f"validation is {validation:g}, expected a fraction from 0 to below 1")
        self.block, self.overlap, self.validation, self.end = block, overlap, validation, end
        self.tokens = self.rows = self.held_out = 0
        self._ids = np.empty(0, np.int32)
        self._known = 0  # this many of the stream's first targets are in a row already

    def add(self, ids: np.ndarray) -> None:
        """Appends ids (N) to the stream."""
        self._ids = np.concatenate([self._ids, ids])
        self.tokens += len(ids)

    def end_document(self) -> None:
        """Appends the end token, if there is one."""
        if self.end is not None:
            self.add(np.array([self.end], np.int32))

    def take(self) -> Iterator[Row]:
        """Takes the complete rows from the stream."""
        at = 0
        while len(self._ids) - at > self.block:
            target = self._ids[at + 1 : at + self.block + 1].copy()
            target[: self._known] = -1
            yield self._row(self._ids[at : at + self.block], target)
            # Held-out rows share no overlapping tokens with the others.
            alone = self._is_held_out(self.rows - 1) or self._is_held_out(self.rows)
            self._known = 0 if alone else self.overlap
            at += self.block - self._known
        self._ids = self._ids[at:]

    def take_rest(self) -> Iterator[Row]:
        """Takes the padded rest after the last text: targets of -1 are ignored in the loss."""
        n = len(self._ids) - 1
        if n > self._known:
            tokens = np.full(self.block, self.end or 0, np.int32)
            target = np.full(self.block, -1, np.int32)
            tokens[:n], target[self._known : n] = self._ids[:-1], self._ids[self._known + 1 :]
            yield self._row(tokens, target)

    def _row(self, tokens: np.ndarray, target: np.ndarray) -> Row:
        row = Row(tokens, target, self._is_held_out(self.rows))
        self.rows += 1
        self.held_out += row.held_out
        return row

    def _is_held_out(self, row: int) -> bool:
        """Spreads held-out rows evenly over the stream: after n rows, round(n * validation) are held out."""
        return math.floor((row + 1) * self.validation + 0.5) > math.floor(row * self.validation + 0.5)


def _need_tokenizer(cursor, tokenizer: str) -> None:
    """Rejects a name that is neither a tokenizer nor a model that has one, with the names that are."""
    query = (
        "SELECT model FROM {0}.llm_bpe_vocab UNION SELECT c.model FROM {0}.llm_model_config AS c "
        "WHERE c.tokenizer IN (SELECT model FROM {0}.llm_bpe_vocab) ORDER BY 1"
    )
    known = [name for (name,) in cursor.execute(catalog.qualified(cursor.connection, query))]
    if tokenizer not in known:
        alike = difflib.get_close_matches(tokenizer, known, 1)
        there = f"did you mean {alike[0]}?" if alike else f"there are {', '.join(known) or 'none yet'};"
        raise KitError(f"there is no tokenizer {tokenizer}; {there} pg-llm ingest-tokenizer loads another")


def _need_same_length(cursor, dataset: str, block_size: int) -> None:
    """Rejects rows of another length than the dataset has: training pads those of a batch to the longest."""
    query = (
        "SELECT min(cardinality(tokens)), max(cardinality(tokens)) FROM {0}.llm_dataset "
        "WHERE dataset = ANY(%s) HAVING count(*) > 0"
    )
    names = [dataset, dataset + HELD_OUT]
    found = cursor.execute(catalog.qualified(cursor.connection, query), [names]).fetchone()
    if found not in (None, (block_size, block_size)):
        least, most = found
        lengths = f"{most}" if least == most else f"{least} to {most}"
        raise KitError(
            f"dataset {dataset} has rows of {lengths} tokens, the new ones would have {block_size}; "
            "choose another --dataset or --block-size, or replace its rows: --truncate"
        )


def _block_size(cursor, tokenizer: str, block_size: int | None) -> int:
    query = "SELECT n_positions FROM {0}.llm_model_config WHERE model = %s"
    model = cursor.execute(catalog.qualified(cursor.connection, query), [tokenizer]).fetchone()
    if block_size is None:
        if model is None:
            raise KitError(
                f"the block size is missing, and {tokenizer} is no model that has one: --block-size"
            )
        return model[0]
    if not 1 <= block_size <= LONGEST_BLOCK:
        raise KitError(f"block size is {block_size}, expected 1 to {LONGEST_BLOCK}")
    if model is not None and block_size > model[0]:
        raise KitError(
            f"block size is {block_size}, and model {tokenizer} reads at most {model[0]} tokens; "
            "leave the block size out to take the model's"
        )
    return block_size


def _copy(cursor, dataset: str, rows: Iterator[Row], batch_size: int) -> None:
    """Writes rows by binary COPY; their ids follow the order of the rows."""
    query = "COPY {0}.llm_dataset (dataset, tokens, target) FROM STDIN (FORMAT BINARY)"
    encoding = cursor.connection.info.encoding
    while batch := list(itertools.islice(rows, batch_size)):
        with cursor.copy(catalog.qualified(cursor.connection, query)) as copy:
            copy.write(_COPY_HEADER)
            for row in batch:
                name = (dataset + HELD_OUT if row.held_out else dataset).encode(encoding)
                copy.write(struct.pack("!hi", 3, len(name)) + name + _array(row.tokens) + _array(row.target))
            copy.write(struct.pack("!h", -1))


def _array(ids: np.ndarray) -> bytes:
    """A field of type int[]: one dimension from 1, no NULL, each element with its length in front."""
    elements = np.full((len(ids), 2), 4, ">i4")
    elements[:, 1] = ids
    return struct.pack("!6i", 20 + elements.nbytes, 1, 0, _INT4, len(ids), 1) + elements.tobytes()


class _Ints(adapt.Loader):
    """An int[] of one dimension without NULL as an int32 array."""

    format = pq.Format.BINARY

    def load(self, data) -> np.ndarray:
        data = bytes(data)
        # No dimension: the array is empty.
        return np.frombuffer(data, ">i4", offset=20)[1::2].astype(np.int32) if len(data) > 12 else _EMPTY


_EMPTY = np.empty(0, np.int32)
