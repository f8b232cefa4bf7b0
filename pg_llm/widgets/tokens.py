"""The tokenizer view: a text's tokens after the first n merges of a tokenizer."""

from __future__ import annotations

from typing import Any

import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.widgets.base import CSS, Database, Widget, script
from pg_llm.widgets.picture import LETTER, Picture, shown

LONGEST = 600  # bytes of a text
COLOURS = ("#cfe3f3", "#fbdcc2", "#cdeadd", "#f6e7a8", "#e3d6f0", "#f3d3dd")


class TokenizerView(Widget):
    """The widget that pg_llm.tokenizer_view returns; merges is how many of them have been applied."""

    _esm = script("tokens")
    _css = CSS

    text = traitlets.Unicode().tag(sync=True)
    tokenizer = traitlets.Unicode().tag(sync=True)
    merges = traitlets.Int(-1).tag(sync=True)  # -1: all

    controls = ("text", "tokenizer")

    def look(self, db: Database) -> dict:
        """The tokens after each merge that changes something in this text."""
        if len(self.text.encode()) > LONGEST:
            raise KitError(
                f"the tokenizer view shows up to {LONGEST} bytes; this text has {len(self.text.encode())}"
            )
        count = db.value("SELECT count(*) FROM {0}.llm_bpe_merges WHERE model = %(m)s", m=self.tokenizer)
        single = db.rows(
            "SELECT get_byte(bytes, 0), token FROM {0}.llm_bpe_vocab "
            "WHERE model = %(m)s AND length(bytes) = 1", m=self.tokenizer,
        )  # fmt: skip
        letters = dict(single)
        pieces = split(db, self.text, self.tokenizer)
        spelled = [[letters[byte] for byte in piece.encode()] for piece in pieces]
        ranks = self._ranks(db, spelled)
        stages: list[dict[str, Any]] = [{"n": 0, "merge": None, "tokens": spelled}]
        for rank, pair in sorted((rank, pair) for pair, rank in ranks.items()):
            before = stages[-1]["tokens"]
            now = [bpe(piece, ranks, rank + 1) for piece in before]
            if now != before:
                stages.append({"n": rank + 1, "merge": list(pair), "tokens": now})
        names = {token for stage in stages for piece in stage["tokens"] for token in piece}
        names |= {part for stage in stages if stage["merge"] for part in stage["merge"]}
        known = db.rows(
            "SELECT token, token_id, bytes FROM {0}.llm_bpe_vocab WHERE model = %(m)s AND token = ANY(%(t)s)",
            m=self.tokenizer, t=sorted(names),
        )  # fmt: skip
        about = {token: {"id": token_id, "text": readable(data)} for token, token_id, data in known}
        for stage in stages:
            stage["pieces"] = [[about[token] for token in piece] for piece in stage.pop("tokens")]
            if stage["merge"]:
                stage["merge"] = [about[token]["text"] for token in stage["merge"]]
        return {"stages": stages, "all": count, "bytes": len(self.text.encode()), "letters": len(self.text)}

    def _ranks(self, db: Database, spelled: list[list[str]]) -> dict[tuple[str, str], int]:
        """The merges of two tokens that could occur in the text, with their ranks."""
        parts = {
            "".join(piece[i:j]) for piece in spelled for i in range(len(piece))
            for j in range(i + 1, min(len(piece), i + 64) + 1)
        }  # fmt: skip
        rows = db.rows(
            "SELECT left_token, right_token, rank FROM {0}.llm_bpe_merges WHERE model = %(m)s "
            "AND left_token = ANY(%(p)s) AND right_token = ANY(%(p)s)", m=self.tokenizer, p=sorted(parts),
        )  # fmt: skip
        return {(left, right): rank for left, right, rank in rows}

    def stage(self) -> dict:
        """What is shown: the last stage that needs no more merges than have been applied."""
        n = self.view["all"] if self.merges < 0 else self.merges
        return [stage for stage in self.view["stages"] if stage["n"] <= n][-1]

    def tokens(self) -> list[str]:
        """The tokens shown."""
        return [token["text"] for piece in self.stage()["pieces"] for token in piece]

    # -- the static picture ----

    def _count(self) -> str:
        n = self.view["all"] if self.merges < 0 else self.merges
        found = len(self.tokens())
        return (
            f"{found} tokens for {self.view['letters']} characters, after the first {n:,} of "
            f"{self.view['all']:,} merges"
        )

    def describe(self) -> str:
        """The tokens and their ids in words."""
        told = ", ".join(f"“{shown(t['text'])}” {t['id']}" for piece in self.stage()["pieces"] for t in piece)
        return f"Tokenizer {self.tokenizer}: {self._count()}: {told}"

    def draw(self) -> str:
        """The tokens in colours, each with its id."""
        p = Picture(720)
        p.text(18, 26, f"Tokenizer {self.tokenizer}", bold=True)
        p.text(18, 45, self._count(), size=12, colour="muted")
        x, y, size, k = 18.0, 60.0, 14, 0
        for piece in self.stage()["pieces"]:
            for token in piece:
                text = shown(token["text"])
                width = max(len(text) * LETTER * size, len(str(token["id"])) * LETTER * 10) + 8
                if x + width > 702:
                    x, y = 18, y + 46
                p.rect(x, y, width, 24, fill=COLOURS[k % len(COLOURS)], round=3)
                p.text(x + width / 2, y + 17, text, size=size, mono=True, anchor="middle")
                p.text(
                    x + width / 2,
                    y + 36,
                    str(token["id"]),
                    size=10,
                    mono=True,
                    colour="muted",
                    anchor="middle",
                )
                x += width + 2
                k += 1
        return p.svg(self.describe())


def split(db: Database, text: str, tokenizer: str) -> list[str]:
    """The pieces between which no merge happens."""
    from pg_llm.widgets.words import pieces

    return [piece["text"] for piece in pieces(db, text, tokenizer)]


def bpe(piece: list[str], ranks: dict[tuple[str, str], int], limit: int) -> list[str]:
    """A piece after all merges of a rank below limit that apply, the lowest rank first.

    >>> bpe(["a", "b", "c"], {("a", "b"): 0, ("ab", "c"): 1}, 1)
    ['ab', 'c']
    """
    while True:
        pairs = {pair for pair in zip(piece, piece[1:], strict=False) if ranks.get(pair, limit) < limit}
        if not pairs:
            return piece
        piece = merged(piece, min(pairs, key=lambda pair: ranks[pair]))


def merged(piece: list[str], pair: tuple[str, str]) -> list[str]:
    """A piece in which each occurrence of the pair is one token.

    >>> merged(["a", "b", "a", "b", "c"], ("a", "b"))
    ['ab', 'ab', 'c']
    """
    result: list[str] = []
    i = 0
    while i < len(piece):
        if tuple(piece[i : i + 2]) == pair:
            result.append(pair[0] + pair[1])
            i += 2
        else:
            result.append(piece[i])
            i += 1
    return result


def readable(data: bytes) -> str:
    """The text of a token's bytes; a part of a character as its bytes, \\xc3."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def tokenizer_view(
    text: str = "Tokenizers read the unbelievable antidisestablishmentarianism!",
    tokenizer: str = "gpt2",
    *,
    merges: int | None = None,
    conn: psycopg.Connection | None = None,
) -> TokenizerView:
    """A text's tokens in colours, with ids, and a slider over the tokenizer's merges.

    merges: how many of them have been applied, the lowest ranks first; 0 shows the bytes, None all.
    conn: None is the notebook's connection. Errors: KitError, psycopg.Error.
    """
    return TokenizerView(conn, text=text, tokenizer=tokenizer, merges=-1 if merges is None else merges)
