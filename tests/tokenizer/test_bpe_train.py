"""llm_bpe_train against a plain reference and tokenizers' trainer; its rows, errors and cost."""

from __future__ import annotations

import collections
import json
import random
import threading

import psycopg
import pytest

pytestmark = pytest.mark.slow

regex = pytest.importorskip("regex")
tokenizers = pytest.importorskip("tokenizers")

PATTERN = regex.compile(r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
# GPT-2's order of the 256 bytes: those visible in Latin-1, then the others.
SEEN = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = [bytes([b]) for b in SEEN + [b for b in range(256) if b not in SEEN]]
LONGEST = 256


def reference(texts: list[str], vocab_size: int, specials: tuple[str, ...] = ()) -> list[tuple[bytes, bytes]]:
    """The merges, found by counting all pairs again for each merge."""
    words = collections.Counter()
    for text in texts:
        for part in regex.split("|".join(map(regex.escape, specials)), text) if specials else [text]:
            words.update(piece.encode() for piece in PATTERN.findall(part))
    tokens = list(BYTES)
    spelled = {word: [tokens.index(bytes([b])) for b in word] for word in words}
    merges = []
    while len(tokens) < vocab_size - len(specials):
        pairs = collections.Counter()
        for word, ids in spelled.items():
            for pair in zip(ids, ids[1:], strict=False):
                if len(tokens[pair[0]]) + len(tokens[pair[1]]) <= LONGEST:
                    pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        for word, ids in spelled.items():
            merged, i = [], 0
            while i < len(ids):
                pair = tuple(ids[i : i + 2]) == best
                merged.append(len(tokens) if pair else ids[i])
                i += 2 if pair else 1
            spelled[word] = merged
        merges.append((tokens[best[0]], tokens[best[1]]))
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return merges


def learn(
    conn, texts: list[str], vocab_size: int, specials: tuple[str, ...] = ()
) -> list[tuple[bytes, bytes]]:
    """The merges of llm_bpe_train, as bytes; checks ids, ranks and bytes against them."""
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS corpus (body text)")
    conn.execute("TRUNCATE corpus")
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO corpus VALUES (%s)", [[text] for text in texts])
    query = "SELECT llm_bpe_train('SELECT body FROM corpus', %s, 'learned', %s, truncate => true)"
    (count,) = conn.execute(query, [vocab_size, list(specials)]).fetchone()
    query = "SELECT token_id, token, bytes, rank FROM llm_bpe_vocab WHERE model = 'learned' ORDER BY token_id"
    rows = conn.execute(query).fetchall()
    assert [row[0] for row in rows] == list(range(count))
    assert [row[2] for row in rows[:256]] == BYTES
    assert [row[2].decode() for row in rows[count - len(specials) :]] == list(specials)
    ranks = [row[3] for row in rows]
    assert ranks == [None] * 256 + list(range(count - 256 - len(specials))) + [None] * len(specials)
    by_text = {row[1]: row[2] for row in rows}
    query = "SELECT left_token, right_token FROM llm_bpe_merges WHERE model = 'learned' ORDER BY rank"
    merges = [(by_text[left], by_text[right]) for left, right in conn.execute(query).fetchall()]
    assert [left + right for left, right in merges] == [row[2] for row in rows[256 : 256 + len(merges)]]
    return merges


def corpus(shared, name: str) -> str:
    return (shared / "data" / "corpora" / name).read_text()


def random_text(seed: int) -> str:
    """Few letters, many ties; repetitions, odd spaces, characters of two to four bytes."""
    r = random.Random(seed)
    letters = r.choice(["ab", "aab ", "abc  '", "aé 中🙂\n1", "l's \t\u00a0x", "  \n-=-"])
    return "".join(r.choices(letters, k=r.randrange(1, 600)))


@pytest.mark.parametrize("seed", range(40))
def test_random_texts_give_the_references_merges(conn, seed):
    texts = [random_text(1000 * seed + i) for i in range(1 + seed % 3)]
    assert learn(conn, texts, 256 + seed * 3) == reference(texts, 256 + seed * 3)


def test_a_real_text_gives_the_references_merges(conn, shared):
    text = corpus(shared, "devils_dictionary.txt")[:60_000]
    merges = learn(conn, [text], 500)
    assert len(merges) == 244
    assert merges == reference([text], 500)


def test_specials_are_not_learned_from(conn):
    specials = ("<|end|>", "<|a b|>")
    texts = ["one<|end|>one two<|a b|><|end|>two " * 9, "<|end <|end|><|e<|end|>nd|>"]
    merges = learn(conn, texts, 300, specials)
    assert merges == reference(texts, 300, specials)
    assert not any(b"end|" in left + right for left, right in merges)


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "devils_dictionary.txt", "makemore_names.txt"])
def test_tokenizers_learns_the_same(conn, shared, name):
    """tokenizers breaks ties as we do, so all its merges are the same."""
    text = corpus(shared, name)
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    other.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2048, min_frequency=2, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    other.train_from_iterator([text], trainer)
    learn(conn, [text], 2048)
    rows = conn.execute(
        "SELECT left_token, right_token FROM llm_bpe_merges WHERE model = 'learned' ORDER BY rank"
    ).fetchall()
    theirs = [
        tuple(m if isinstance(m, list) else m.split(" "))
        for m in json.loads(other.to_str())["model"]["merges"]
    ]
    assert rows == theirs
    ids = conn.execute("SELECT llm_encode(%s, 'learned')", [text]).fetchone()[0]
    assert [other.id_to_token(i) for i in other.encode(text).ids] == [
        token
        for (token,) in conn.execute(
            "SELECT token FROM unnest(%s::int[]) WITH ORDINALITY AS t(id, n) "
            "JOIN llm_bpe_vocab ON token_id = id AND model = 'learned' ORDER BY n",
            [ids],
        ).fetchall()
    ]
    assert conn.execute("SELECT llm_decode(%s, 'learned')", [ids]).fetchone()[0] == text


def test_a_notice_when_no_pair_repeats(conn):
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    learn(conn, ["abab xyz"], 5000)
    assert notices == ["no pair of tokens repeats any more: the vocabulary has 257 tokens, not 5000"]


def test_one_endless_word_can_be_canceled(conn, connect):
    """A million letters without a space are one piece, which each merge traverses."""
    query = "SELECT llm_bpe_train('SELECT string_agg(chr(97 + (hashint4(n) & 7)), '''') "
    query += "FROM generate_series(1, 3000000) n', 100000, 'endless')"
    canceler = threading.Timer(2.5, conn.cancel)
    canceler.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute(query)
    assert conn.execute("SELECT count(*) FROM llm_bpe_vocab WHERE model = 'endless'").fetchone() == (0,)


def test_a_memory_limit_is_kept(conn):
    """Memory grows with the number of distinct words."""
    conn.execute("SET pg_llm.memory_limit = '64MB'")
    try:
        with pytest.raises(psycopg.errors.OutOfMemory, match="memory"):
            conn.execute(
                "SELECT llm_bpe_train('SELECT md5(n::text) FROM generate_series(1, 2000000) n', 5000, 'big')"
            )
    finally:
        conn.execute("RESET pg_llm.memory_limit")
