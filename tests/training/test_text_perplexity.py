"""Perplexity of a text by a sliding window, against the loop that transformers' documentation gives."""

import math

import psycopg
import pytest
from helpers.torch_gpt2 import random_gpt2

import pg_llm

SIZE = (2, 2, 32, 16, 256, {})


@pytest.fixture(scope="module")
def bytewise(database, tmp_path_factory):
    """A model 'bytewise' whose tokens are the bytes of the text; transformers' model."""
    folder = tmp_path_factory.mktemp("bytewise")
    model = random_gpt2(SIZE).float()
    model.save_pretrained(folder)
    with pg_llm.connect(database) as conn:
        pg_llm.load_model(conn, folder, "bytewise")
        conn.execute(
            "INSERT INTO llm_bpe_vocab SELECT 'bytewise', b, token, bytes FROM llm_bpe_vocab,"
            " generate_series(0, 255) AS b WHERE model = 'gpt2' AND bytes = set_byte('x'::bytea, 0, b)"
        )
        # without an end token, the text alone is in a dataset
        conn.execute(
            "UPDATE llm_model_config SET options = options - 'eos_token_id' WHERE model = 'bytewise'"
        )
    return model.double().eval()


def documented(model, ids, stride):
    """(nll, count) of each window: https://huggingface.co/docs/transformers/perplexity"""
    torch = pytest.importorskip("torch")
    ids, end_before, windows = torch.tensor([ids]), 0, []
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + SIZE[3], ids.shape[1])
        target = ids[:, begin:end].clone()
        target[:, : end_before - end] = -100
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=target).loss
        windows.append(
            (loss.item(), (target[:, 1:] >= 0).sum().item())
        )  # the first of a window has no context
        end_before = end
        if end == ids.shape[1]:
            return [(loss, count) for loss, count in windows if count]


TEXT = "The wolf and the seven young kids: a tale, told again and again to this very day. "


@pytest.mark.parametrize("length", [2, 15, 16, 17, 18, 33, 80])
@pytest.mark.parametrize("stride", [1, 5, 8, 15, 16])
def test_the_documented_sliding_window(conn, bytewise, length, stride):
    text = TEXT[:length]
    windows = documented(bytewise, list(text.encode()), stride)
    count = sum(n for _, n in windows)
    expected = sum(loss * n for loss, n in windows) / count
    query = "SELECT loss, perplexity, tokens FROM llm_perplexity('bytewise', text => %s, stride => %s)"
    loss, perplexity, tokens = conn.execute(query, (text, stride)).fetchone()
    assert tokens == count
    assert loss == pytest.approx(expected, rel=1e-6)
    assert perplexity == pytest.approx(math.exp(loss))


def test_half_a_window_is_the_default(conn, bytewise):
    query = "SELECT loss, bits_per_character FROM llm_perplexity('bytewise', text => %s, stride => %s)"
    loss, bits = conn.execute(query, (TEXT, None)).fetchone()
    assert (loss, bits) == conn.execute(query, (TEXT, SIZE[3] // 2)).fetchone()
    assert bits == pytest.approx(loss / math.log(2))  # a token is a character
    assert conn.execute(query, (TEXT, SIZE[3])).fetchone()[1] is None  # some characters are not scored


@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_a_dataset_of_overlapping_rows_scores_each_token_once(conn, bytewise, overlap):
    with conn.transaction(force_rollback=True):
        conn.execute(
            "SELECT llm_dataset_load('tale', format('SELECT %%L::text', %s::text), 'bytewise',"
            " block_size => 15, overlap => %s)",
            (TEXT, overlap),
        )
        got = conn.execute("SELECT loss, tokens FROM llm_perplexity('bytewise', 'tale')").fetchone()
    # a row of 15 tokens and its last target are a window of 16
    by_text = "SELECT loss, tokens FROM llm_text_loss('bytewise', %s, 16)"
    if overlap:
        by_text = by_text.replace("16)", f"{15 - overlap})")
        loss, tokens = conn.execute(by_text, (TEXT,)).fetchone()
        assert got == (pytest.approx(loss, rel=1e-6), tokens)
    assert got[1] == len(TEXT) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'bytewise'", "takes a dataset or a text, and has neither"),
        ("'bytewise', 'tale', text => 'two'", "has both"),
        ("'bytewise', text => 'two', max_rows => 3", "max_rows is for a dataset"),
        ("'bytewise', 'tale', stride => 3", "stride is for a text"),
        ("'bytewise', text => 'two', stride => 0", "stride is 0, expected 1 to 16"),
        ("'bytewise', text => 'two', stride => 17", "stride is 17, expected 1 to 16"),
        ("'bytewise', text => 'a'", "the text has 1 tokens; 2 or more"),
        ("'bytewise', text => ''", "the text has 0 tokens"),
        ("NULL, text => 'two'", "model must not be NULL"),
    ],
)
def test_what_is_refused(conn, bytewise, arguments, message):
    with pytest.raises(psycopg.Error, match=message):
        conn.execute(f"SELECT * FROM llm_perplexity({arguments})")
