"""Prompts of tokens and special tokens in prompts, in every function that takes a prompt and the client."""

from __future__ import annotations

import psycopg
import pytest
from helpers.tiny_model import make

import pg_llm
from pg_llm.client import PGLLMClient

TEXT = "ab<end>cd"
IDS = [3, 4, 0, 5, 6]  # with <end> as token 0
CALLS = [
    "llm_generate({}, 5, 0, model => 'm'{})",
    "(SELECT array_agg(s.*::text) FROM llm_generate_stream({}, 5, 0, model => 'm'{}) AS s)",
    "(SELECT array_agg(t.*::text) FROM llm_next_tokens({}, 5, 'm'{}) AS t)",
    "(SELECT array_agg(b.*::text) FROM llm_beam_search({}, 2, 3, 'm'{}) AS b)",
]


@pytest.fixture(scope="module")
def m(server, database):
    """Letters and a special token of which the letters are tokens, too."""
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=2, n_head=4, d_model=32, n_positions=64, vocab=29, gain=8)
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model IN ('m', 'letters')")
        conn.execute("UPDATE llm_model_config SET tokenizer = 'letters' WHERE model = 'm'")
        conn.execute(
            """INSERT INTO llm_bpe_vocab (model, token_id, token, bytes, special)
            VALUES ('letters', 0, '<end>', '<end>'::bytea, true), ('letters', 1, '<', '<', false),
                ('letters', 2, '>', '>', false)
            UNION ALL SELECT 'letters', 3 + i, chr(97 + i), chr(97 + i)::bytea, false
            FROM generate_series(0, 25) AS i"""
        )
        yield conn


@pytest.fixture
def notices(m):
    """The messages of notices."""
    said: list[str] = []

    def hear(notice) -> None:
        said.append(notice.message_primary)

    m.add_notice_handler(hear)
    yield said
    m.remove_notice_handler(hear)


def one(conn, query: str, *arguments):
    return conn.execute(f"SELECT {query}", arguments).fetchone()[0]


@pytest.mark.parametrize("call", CALLS)
def test_special_tokens_and_ids_are_the_same_prompt(m, notices, call):
    ids = one(m, "llm_encode(%s, 'm', true)", TEXT)
    assert ids == IDS
    special = one(m, call.format("%s", ", special => true"), TEXT)
    assert special == one(m, call.format("%s::int[]", ""), ids)
    assert notices == []
    assert one(m, call.format("%s", ""), TEXT) != special
    assert notices == ['the prompt contains "<end>" as text, not as the special token 0']
    plain = one(m, "llm_encode(%s, 'm')", TEXT)
    assert one(m, call.format("%s", ""), TEXT) == one(m, call.format("%s::int[]", ""), plain)


def test_batches_take_special_tokens(m):
    query = "SELECT text FROM llm_generate_batch(%s, 5, 0, model => 'm', special => true)"
    assert m.execute(query, [[TEXT, "ab"]]).fetchall() == [
        (one(m, CALLS[0].format("%s", ", special => true"), text),) for text in (TEXT, "ab")
    ]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "ids, message",
    [("{{1,2}}", "one-dimensional"), ("{1,NULL}", "without NULL"), ("{1,-1}", "token 2 of the prompt is -1")],
)
def test_what_is_no_prompt(m, call, ids, message):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        one(m, call.format(f"'{ids}'::int[]", ""))
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="prompt must not be NULL"):
        one(m, call.format("NULL::int[]", ""))


def test_the_client(m):
    client = PGLLMClient(m, model="m")
    arguments = {"temperature": 0, "max_tokens": 5}
    assert client.generate(IDS, **arguments) == client.generate(TEXT, special=True, **arguments)
    assert client.generate(tuple(IDS), **arguments) != client.generate(TEXT, **arguments)
    streamed = [list(client.stream(p, special=True, **arguments)) for p in (IDS, TEXT)]
    assert streamed[0] == streamed[1] and streamed[0][-1].token_ids[:5] == IDS
    assert client.next_tokens(IDS).equals(client.next_tokens(TEXT, special=True))
    assert client.beam_search(IDS, 2, max_tokens=3) == client.beam_search(TEXT, 2, max_tokens=3, special=True)
    (sample,) = client.generate_batch(TEXT, special=True, **arguments)
    assert sample.text == client.generate(IDS, **arguments)
    for call in (client.generate, client.next_tokens, client.beam_search):
        with pytest.raises(TypeError, match="float"):  # not rounded to another token
            call([token + 0.4 for token in IDS])
