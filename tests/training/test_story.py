"""Stories with a known distribution: they need tracking, words are tokens, held-out stories are new."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

import pytest
from helpers.paths import REPO

STORIES = 2000
# Kinds of token that require tracking, and the lists of words.h from which each is drawn.
TRACKED = {
    "song": "SONG",
    "object copy": "THINGS",
    "surname copy": "SURNAMES",
    "who": "NAMES",
    "where": "PLACES",
    "where-by-holder": "PLACES",
    "recipient": "NAMES",
}
RULES = {
    "last mentioned": lambda seen: seen[-1],
    "first mentioned": lambda seen: seen[0],
    "most frequent, the later of equals": lambda seen: max(reversed(seen), key=seen.count),
    "most frequent, the earlier of equals": lambda seen: max(seen, key=seen.count),
}


@pytest.fixture(scope="module")
def lexicon():
    """The lists of words.h by name."""
    source = (REPO / "extension" / "stories" / "words.h").read_text()
    lists = re.findall(r"\*const (\w+)\[\] = \{(.*?)\};", source, re.DOTALL)
    return {name: re.findall(r'"( [^"]+)"', body) for name, body in lists}


def tokens_of(conn, first: int, count: int) -> list[list[tuple[str, str, float]]]:
    """(token, kind, true_logprob) of each token of each of the stories."""
    rows = conn.execute(
        "SELECT seed, token, kind, true_logprob FROM generate_series(%s::bigint, %s) AS seed, "
        "llm_story_token((llm_story(seed)).text) ORDER BY seed, pos",
        (first, first + count - 1),
    )
    stories = defaultdict(list)
    for seed, token, kind, logprob in rows:
        stories[seed].append((token, kind, logprob))
    return list(stories.values())


def texts(conn, first: int, count: int) -> list[str]:
    """The stories of seeds first, first + 1, …"""
    rows = conn.execute(
        "SELECT (llm_story(seed)).text FROM generate_series(%s::bigint, %s) AS seed",
        (first, first + count - 1),
    )
    return [text for (text,) in rows]


@pytest.mark.slow
def test_shortcut_rules_do_not_track(conn, lexicon):
    """Last mentioned, first mentioned, most frequent: each is right in under 60 % of every tracking kind."""
    asked, right = Counter(), Counter()
    for story in tokens_of(conn, 0, STORIES):
        for i, (token, kind, _) in enumerate(story):
            if kind not in TRACKED or token == ".":
                continue
            asked[kind] += 1
            seen = [t for t, _, _ in story[:i] if t in lexicon[TRACKED[kind]]]
            for rule, answer in RULES.items():
                right[kind, rule] += answer(seen) == token
    assert set(asked) == set(TRACKED) and min(asked.values()) > 1000
    shares = {key: right[key] / asked[key[0]] for key in right}
    assert max(shares.values()) < 0.6, {k: v for k, v in shares.items() if v >= 0.6}


def test_pronouns_are_of_both_kinds(conn):
    pronouns = Counter(t for story in tokens_of(conn, 0, 500) for t, kind, _ in story if kind == "pronoun")
    assert set(pronouns) == {" He", " She", " he", " she"}
    assert max(pronouns.values()) < 0.6 * sum(pronouns.values())


def test_what_is_tracked_is_certain_and_every_choice_is_not(conn):
    for story in tokens_of(conn, -300, 300):
        assert len(story) <= 127
        assert all((kind == "choice") == (logprob < 0) for _, kind, logprob in story)
        assert sum(kind == "choice" for _, kind, _ in story) > 25


def answers(text: str) -> None:
    """Simulates a story from its plain words and checks every answer in it."""
    people = re.findall(r"an? (\w+) (\w+) (\w+) (\w+) took to the (\w+)", text)
    assert len(people) == 2
    thing = {p[0]: p[1] for p in people}
    holder = {p[0]: p[2] for p in people}
    surname = {p[2]: p[3] for p in people}
    place = {p[2]: p[4] for p in people}
    for sentence in re.findall(r"[^.?!]+[.?!](?: (?:She|He|It) was[^.]*\.)?", text.partition(" sang:")[2]):
        if move := re.search(r"(\w+) \w+ to the (\w+)\.$", sentence):
            assert move[2] not in place.values()
            place[move[1]] = move[2]
        elif where := re.search(r"Where was (?!the)(\w+) (\w+)\? \w+ was in the (\w+)\.", sentence):
            assert surname[where[1]] == where[2] and place[where[1]] == where[3]
        elif which := re.search(r"Where was the (\w+) (\w+)\? It was in the (\w+)\.", sentence):
            assert thing[which[1]] == which[2] and place[holder[which[1]]] == which[3]
        elif who := re.search(r"saw the (\w+) (\w+) (\w+) had(?:, and s?he sent it to (\w+))?", sentence):
            assert thing[who[1]] == who[2] and holder[who[1]] == who[3]
            if who[4]:
                assert who[4] in place and who[4] != who[3]
                holder[who[1]] = who[4]
    first, again = re.findall(r"sang: ([a-z ]+)\.", text)
    assert 6 <= len(first.split()) <= 8 and len(again.split()) >= 2 and first.endswith(again)


def test_every_answer_is_right(conn):
    """The stories are consistent, according to a reader that knows nothing of the generator."""
    for text in texts(conn, -STORIES, STORIES):
        answers(text)
    assert sum("sent it to" in t for t in texts(conn, 0, 500)) > 250


def test_a_song_is_resumed_from_any_word(conn):
    skipped = Counter()
    for text in texts(conn, 0, STORIES):
        first, again = re.findall(r"sang: ([a-z ]+)\.", text)
        skipped[len(first.split()) - len(again.split())] += 1
    assert set(skipped) == set(range(7)) and skipped[0] < 0.3 * STORIES


def test_held_out_stories_are_new(conn):
    """No story of a negative seed equals one of the others, and hardly ever does its song."""
    training, held_out = texts(conn, 0, 50000), texts(conn, -5000, 5000)
    assert len(set(training)) == 50000 and len(set(held_out)) == 5000
    assert not set(training) & set(held_out)
    songs = [{re.search(r"sang: ([a-z ]+)\.", t)[1] for t in part} for part in (training, held_out)]
    assert len(songs[0] & songs[1]) < 5


@pytest.mark.slow
def test_every_word_is_one_token(conn, lexicon):
    """A byte-level BPE of 1024 trained on stories has every word, and so every token, whole."""
    tokenizers = pytest.importorskip("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1024, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts(conn, 0, 20000), trainer)
    assert bpe.get_vocab_size() < 800
    words = {word for name in lexicon if name != "ENDINGS" for word in lexicon[name]}
    assert 150 < len(words) <= 600
    assert [w for w in words if len(bpe.encode(w).ids) != 1] == []
    for story in tokens_of(conn, -200, 200):
        text = "".join(token for token, _, _ in story)
        assert [text[a:b] for a, b in bpe.encode(text).offsets] == [token for token, _, _ in story]


def test_the_tokenizer_learned_in_the_database_has_the_story_s_tokens(conn):
    """llm_bpe_train stops below 800 tokens, and its tokens match those of llm_story_token one to one."""
    corpus = "SELECT (llm_story(i)).text FROM generate_series(0, 20000) AS i"
    count = conn.execute("SELECT llm_bpe_train(%s, 1024, 'stories')", (corpus,)).fetchone()[0]
    assert 512 < count < 800
    wrong = conn.execute(
        "SELECT count(*) FROM generate_series(-300, -1) AS seed, llm_story(seed) AS s WHERE "
        "(SELECT array_agg(llm_decode(ARRAY[id], 'stories') ORDER BY n) "
        "FROM unnest(llm_encode(s.text, 'stories')) WITH ORDINALITY AS e(id, n)) IS DISTINCT FROM "
        "(SELECT array_agg(token ORDER BY pos) FROM llm_story_token(s.text))"
    )
    assert wrong.fetchone() == (0,)


def test_draws_have_the_probabilities_told(conn):
    """The first choices of 20000 stories against llm_story_next, within 4.5 standard deviations."""
    stories = texts(conn, 0, 20000)
    for prefix in ["It was", "It was May", "It was May and the", "It was May."]:
        after = [t[len(prefix) :] for t in stories if t.startswith(prefix)]
        drawn = Counter(re.match(r" ?\w+|.", rest)[0] for rest in after)
        assert len(after) > 300
        for token, p in conn.execute("SELECT * FROM llm_story_next(%s)", (prefix,)):
            assert abs(drawn[token] - p * len(after)) < 4.5 * math.sqrt(len(after) * p * (1 - p)) + 1


def test_the_floor(conn):
    """The mean over stories, with the standard error of a ratio; it converges as stories are added."""
    stories = tokens_of(conn, 0, STORIES)
    nats = [-sum(logprob for *_, logprob in story) for story in stories]
    count = [len(story) for story in stories]
    characters = sum(len(token) for story in stories for token, *_ in story)
    ratio = sum(nats) / sum(count)
    spread = sum((x - ratio * t) ** 2 for x, t in zip(nats, count, strict=True))
    error = math.sqrt(spread / STORIES / (STORIES - 1)) / (sum(count) / STORIES)
    floor = conn.execute("SELECT * FROM llm_story_floor(0, %s)", (STORIES,)).fetchone()
    assert floor == pytest.approx((ratio, error, sum(nats) / characters / math.log(2)), rel=1e-9)
    more = conn.execute("SELECT * FROM llm_story_floor(-40000, 40000)").fetchone()
    assert more[1] < error / 3 and abs(more[0] - ratio) < 4 * math.hypot(error, more[1])


def test_any_cut_of_a_story_is_a_prefix_and_any_wrong_word_is_named(conn):
    import psycopg

    (story,) = texts(conn, 7, 1)
    pieces = re.findall(r" ?\w+|[^\w ]", story)
    for i in range(len(pieces)):
        prefix = "".join(pieces[:i])
        rows = dict(conn.execute("SELECT * FROM llm_story_next(%s)", (prefix,)).fetchall())
        assert sum(rows.values()) == pytest.approx(1) and rows[pieces[i]] > 0
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="purple") as caught:
            conn.execute("SELECT * FROM llm_story_next(%s)", (prefix + " purple",))
        assert "One of these comes there" in caught.value.diag.message_hint
    for hostile in ["\x01", "It\twas", "It  was", "é", "It wasé" * 50, "😀" * 300, "x" * 100000, " It was"]:
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            conn.execute("SELECT * FROM llm_story_token(%s)", (hostile,))
