"""llm_embed: transformers' hidden states, pooled."""

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import LETTERS, ids, letters, make
from helpers.torch_gpt2 import random_gpt2

import pg_llm


def embed(conn, *arguments, **named):
    names = "".join(f", {name} => %s" for name in named)
    query = f"SELECT llm_embed({', '.join(['%s'] * len(arguments))}{names})"
    return conn.execute(query, [*arguments, *named.values()]).fetchone()[0]


@pytest.mark.slow
def test_vectors_are_transformers_hidden_states(conn, tmp_path):
    torch = pytest.importorskip("torch")
    model = random_gpt2((3, 2, 24, 40, 26, {}), 3)
    model.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, "embedded")
    letters(conn, "embedded")
    pool = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0), "first": lambda x: x[0],
        "last": lambda x: x[-1], "none": lambda x: x}  # fmt: skip
    for text in ("q", "hello", LETTERS):
        with torch.no_grad():
            states = model(torch.tensor([ids(text)]), output_hidden_states=True).hidden_states
        assert len(states) == 4
        for layer in range(-4, 4):
            for name, rule in pool.items():
                got = embed(conn, text, "embedded", layer, name)
                assert np.allclose(got, rule(states[layer][0].numpy()), atol=2e-6)
        assert np.array_equal(embed(conn, text, "embedded"), embed(conn, text, "embedded", -1, "mean"))


def test_refusals(conn):
    make(conn, "m", n_layer=2, n_positions=16)
    for arguments, words in (
        (("abc", "m", 3), 'layer is 3; model "m" has 0, its embedding, to 2'),
        (("abc", "m", -4), "layer is -4"),
        (("abc", "m", 0, "sum"), 'pooling is "sum"; it must be mean, max'),
        (("", "m"), "the text is empty"),
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=words) as error:
            embed(conn, *arguments)
        assert error.value.diag.message_hint
    with pytest.raises(psycopg.errors.UndefinedObject, match='there is no model "nosuch"'):
        embed(conn, "abc", "nosuch")
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        embed(conn, None, "m")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="17 tokens"):
        embed(conn, "a" * 17, "m")
    assert embed(conn, "abc", "m", 0, "none").shape == (3, 8)
