"""Which words a model knows: with the classroom's tokenizer those of the stories, else what merges make."""

from __future__ import annotations

from pg_llm.widgets.base import Database
from pg_llm.widgets.picture import shown

CLOSED = "classroom"  # the tokenizer whose vocabulary is closed: that of the stories
STORIES = 300  # hold every word of the grammar
KINDS = ("object copy", "surname copy", "where", "pronoun", "song")  # what the prompts' next token asks for
OPEN_PROMPTS = ("I wish you a happy New", "The capital of France is", "Once upon a time")


def tokenizer_of(db: Database, model: str) -> str:
    """The name under which a model's vocabulary is stored."""
    return db.value("SELECT {0}.llm_tokenizer(%(m)s)", m=model) or model


def pieces(db: Database, text: str, tokenizer: str) -> list[dict]:
    """The pieces of a text in order: text, its tokens (text and id), and why the model does not know it."""
    rows = db.rows(
        "SELECT t.piece, t.token_id, t.token, length(v.bytes) FROM {0}.llm_tokenize(%(t)s, %(m)s) AS t "
        "JOIN {0}.llm_bpe_vocab AS v ON v.model = %(m)s AND v.token_id = t.token_id ORDER BY t.position",
        t=text, m=tokenizer,
    )  # fmt: skip
    found: list[dict] = []
    left = 0  # bytes of the last piece that its tokens do not cover yet
    for piece, token_id, token, length in rows:
        if left <= 0:
            found.append({"text": piece, "tokens": []})
            left = len(piece.encode())
        found[-1]["tokens"].append({"id": token_id, "text": token})
        left -= length
    known = story_words(db) if tokenizer == CLOSED else None
    for each in found:
        each["unknown"] = reason(each, known)
    return found


def reason(piece: dict, known: frozenset[str] | None) -> str:
    """Why a piece is no word of the model; empty if it is one."""
    text, parts = piece["text"], piece["tokens"]
    fallen = f"{len(parts)} tokens: " + " · ".join(shown(t["text"]) for t in parts)
    if len(parts) == 1:
        fallen = "a token that the stories use only inside other words"
    if known is None:
        single = len(parts) > 1 and all(len(t["text"]) == 1 or "\\x" in t["text"] for t in parts)
        return f"“{shown(text)}” is in no merge of this tokenizer; it falls to {fallen}" if single else ""
    if text in known:
        return ""
    if f" {text}" in known:
        return (
            f"“{text}” without a space before it is not one of the {len(known)} words of the stories (with "
            f"one it is); it falls to {fallen}"
        )
    return f"“{shown(text)}” is not one of the {len(known)} words of the stories; it falls to {fallen}"


_known: dict[str, frozenset[str]] = {}


def story_words(db: Database) -> frozenset[str]:
    """The closed vocabulary of the classroom models: the words and marks of the stories, spaces included."""
    if CLOSED not in _known:
        rows = db.rows(
            "SELECT DISTINCT w.piece FROM generate_series(1, %(n)s) AS seed, {0}.llm_story(seed) AS s, "
            "{0}.llm_tokenize(s.text, %(m)s) AS w", n=STORIES, m=CLOSED,
        )  # fmt: skip
        _known[CLOSED] = frozenset(row[0] for row in rows)
    return _known[CLOSED]


# beginnings of stories after each of which only words of one kind can follow
STARTS = {
    "time of year": ["It was"],
    "adjective": ["It was spring. There was a", "It was spring. There was an"],
    "thing": ["It was spring. There was a paper"],
    "first name": ["It was spring. There was a paper key"],
    "surname": ["It was spring. There was a paper key Ruth"],
    "place": ["It was spring. There was a paper key Ruth Gray took to the"],
    "scenery": ["It was spring and the"],
    "weather": ["It was spring and the sea was"],
    "song word": [
        "It was spring. There was a paper key Ruth Gray took to the tent and a red flute Tom Burns took to "
        "the shed. Tom Burns sang:"
    ],
}


def kinds(db: Database) -> dict[str, str]:
    """Word of the stories, space included, to its kind; the others have none."""
    rows = db.rows(
        "SELECT DISTINCT ON (n.token) n.token, s.kind FROM unnest(%(k)s::text[], %(s)s::text[]) "
        "WITH ORDINALITY AS s (kind, start, place), {0}.llm_story_next(s.start) AS n "
        "ORDER BY n.token, s.place",
        k=[kind for kind, starts in STARTS.items() for _ in starts],
        s=[start for starts in STARTS.values() for start in starts],
    )
    return dict(rows)


def prompts(db: Database, tokenizer: str) -> list[dict]:
    """Prompts to choose from: beginnings of held-out stories, one for each kind of next token."""
    if tokenizer != CLOSED:
        return [{"kind": "", "text": text} for text in OPEN_PROMPTS]
    return [{"kind": "beginning", "text": "It was"}, *_beginnings(db)]


_prompts: list[dict] = []


def _beginnings(db: Database) -> list[dict]:
    if not _prompts:
        rows = db.rows(
            "WITH token AS (SELECT seed, t.* FROM generate_series(-60, -1) AS seed, "
            "{0}.llm_story(seed) AS s, {0}.llm_story_token(s.text) AS t), "
            "start AS (SELECT seed, pos, kind, string_agg(token, '') OVER (PARTITION BY seed ORDER BY pos "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS text FROM token) "
            "SELECT DISTINCT ON (kind) kind, text FROM start WHERE kind = ANY(%(kinds)s) "
            "ORDER BY kind, length(text), seed", kinds=list(KINDS),
        )  # fmt: skip
        by_kind = dict(rows)
        _prompts.extend({"kind": kind, "text": by_kind[kind]} for kind in KINDS if kind in by_kind)
    return _prompts
