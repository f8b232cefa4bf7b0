"""Quantized weights: the rounding of each format, and models that compute with quantized copies."""

import numpy as np
import psycopg
import pytest
from helpers.shared_copies import TOKENS, files, folder_of
from helpers.tiny_model import logits, make

from pg_llm.files.adapter import register


@pytest.fixture
def m(conn):
    """The connection, with a new model "m" whose copies will be shared."""
    register(conn)
    conn.execute("DELETE FROM llm_model_config WHERE model LIKE 'm%'")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
    make(conn, "m", d_model=128)
    return conn


def quantized(conn, x, form, transposed=False):
    query = "SELECT pg_llm_quantize(%s, %s, %s)"
    return conn.execute(query, (x.astype(np.float32), form, transposed)).fetchone()[0]


def test_bf16_is_torchs(m):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(70, 33)).astype(np.float32) * np.float32(1e-3)
    want = torch.tensor(x).to(torch.bfloat16).to(torch.float32).numpy()
    assert quantized(m, x, "bf16").tobytes() == want.tobytes()
    assert quantized(m, x, "bf16", True).tobytes() == want.tobytes()


@pytest.mark.parametrize("transposed", [False, True])
def test_int8_is_the_nearest_multiple(m, transposed):
    """Compared in float64: a scale per 128 rows of a column, rounded up to eight bits."""
    x = np.random.default_rng(2).standard_t(2, size=(300, 40)).astype(np.float32)
    got = quantized(m, x.T.copy() if transposed else x, "int8", transposed)
    got = got.T if transposed else got
    for k in range(0, 300, 128):
        block = x[k : k + 128].astype(np.float64)
        exact = np.abs(block).max(axis=0) / 127
        unit = 2.0 ** (np.floor(np.log2(exact)) - 7)
        scale = np.ceil(exact / unit) * unit
        want = np.rint(block / scale) * scale
        np.testing.assert_allclose(got[k : k + 128], want, rtol=1e-7)
    form = m.execute("SELECT pg_llm_format(%s, false)", (np.ascontiguousarray(got),)).fetchone()[0]
    assert form == "int8"


@pytest.mark.parametrize("form", ["bf16", "int8"])
def test_the_copy_computes_what_its_rows_say(m, form):
    """The forward pass reads compact panels; training reads the float32 rows. The loss has the same bits."""
    assert m.execute("SELECT llm_quantize('m', %s)", (form,)).fetchone() == (f"m-{form}",)
    m.execute("DELETE FROM llm_dataset")
    m.execute(
        "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('d', %s, %s)",
        ([*range(16)], [*range(1, 17)]),
    )
    loss = m.execute("SELECT loss FROM llm_perplexity(%s, 'd')", (f"m-{form}",)).fetchone()[0]
    with m.transaction(force_rollback=True):
        m.execute("SELECT llm_train(%s, 1, dataset => 'd', batch_size => 1, dropout_p => 0)", (f"m-{form}",))
        log = "SELECT loss = %s::real FROM llm_train_log WHERE model = %s"
        assert m.execute(log, (loss, f"m-{form}")).fetchone() == (True,)
    ours = logits(m, f"m-{form}", TOKENS)
    for isa in ("scalar", "avx2", "avx512"):
        try:
            m.execute(f"SET pg_llm.isa = {isa}")
        except psycopg.Error:
            continue
        assert logits(m, f"m-{form}", TOKENS).tobytes() == ours.tobytes()
    m.execute("RESET pg_llm.isa")
    error = np.abs(ours - logits(m, "m", TOKENS)).max()
    assert 0 < error < 0.05 * np.abs(ours).max()


def test_what_is_stored_and_read(m):
    """All parameters have rows; the copy in memory is smaller by the format's saving."""
    m.execute("SELECT llm_quantize('m', 'int8'), llm_quantize('m', 'bf16', 'm-half')")
    sizes = []
    for name in ("m", "m-half", "m-int8"):
        before = set(files(m, "m"))
        logits(m, name, TOKENS)
        (new,) = set(files(m, "m")) - before
        sizes.append((folder_of(m) / new).stat().st_size)
    assert sizes[2] < 0.6 * sizes[1] and sizes[1] < 0.6 * sizes[0]
    rows = "SELECT name, format, rms_error / source_rms FROM llm_quantization(%s, 'm')"
    for model, form, least, most in (("m-int8", "int8", 3e-3, 1e-2), ("m-half", "bf16", 1e-3, 3e-3)):
        found = m.execute(rows, (model,)).fetchall()
        assert len(found) == 9
        assert all(f == form and least < error < most for _, f, error in found), found
    same = (
        "SELECT count(*) FILTER (WHERE tensor_equal(p.data, q.data)), count(*) FROM llm_param p"
        " JOIN llm_param q USING (name) WHERE p.model = 'm-int8' AND q.model = 'm'"
    ).replace("tensor_equal(p.data, q.data)", "p.data::bytea = q.data::bytea")
    equal, all_of_them = m.execute(same).fetchone()
    assert all_of_them - equal == 9


def test_a_number_changed_by_hand_counts(m):
    """It is not on the format's grid: that matrix alone is read as float32 from then on."""
    m.execute("SELECT llm_quantize('m', 'int8')")
    before = logits(m, "m-int8", TOKENS)
    name = "h.0.mlp.c_fc.weight"
    data = m.execute("SELECT data FROM llm_param WHERE (model, name) = ('m-int8', %s)", (name,)).fetchone()[0]
    data = data.copy()
    data[3, 5] += np.float32(0.01234)
    m.execute("UPDATE llm_param SET data = %s WHERE (model, name) = ('m-int8', %s)", (data, name))
    forms = dict(m.execute("SELECT name, format FROM llm_quantization('m-int8', 'm')").fetchall())
    assert forms.pop(name) == "float32" and set(forms.values()) == {"int8"}
    after = logits(m, "m-int8", TOKENS)
    assert after.tobytes() != before.tobytes()
    m.execute("SET pg_llm.share_weights = off")
    assert logits(m, "m-int8", TOKENS).tobytes() == after.tobytes()
    m.execute("RESET pg_llm.share_weights")


def test_perplexity_tells_the_price(m):
    m.execute("SELECT llm_quantize('m', 'int8')")
    m.execute("DELETE FROM llm_dataset")
    m.execute(
        "INSERT INTO llm_dataset (dataset, tokens, target)"
        " SELECT 'd', array_agg(i * j % 26), array_agg((i * j + i) % 26)"
        " FROM generate_series(1, 5) AS i, generate_series(1, 16) AS j GROUP BY i"
    )
    own, source, change, tokens = m.execute(
        "SELECT * FROM llm_perplexity_change('m-int8', 'm', 'd')"
    ).fetchone()
    perplexity = "SELECT perplexity FROM llm_perplexity(%s, 'd')"
    assert own == m.execute(perplexity, ("m-int8",)).fetchone()[0]
    assert source == m.execute(perplexity, ("m",)).fetchone()[0]
    assert change == pytest.approx(own / source - 1) and 0 < abs(change) < 0.05 and tokens == 80


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT llm_quantize('m', 'int4')", '"int4" is not a format of weights'),
        ("SELECT llm_quantize('nobody', 'int8')", 'there is no model "nobody" to copy'),
        ("SELECT llm_quantize('m', NULL)", "model and format must not be NULL"),
        ("SELECT llm_quantize('m', 'int8', 'm')", 'model "m" already exists'),
        ("SELECT llm_quantize('m', 'int8', '')", "violates check constraint"),
        ("SELECT pg_llm_quantize('[1,2,3]', 'int8')", r"shape \(3\) is not that of a matrix"),
        ("SELECT pg_llm_quantize('[[1,NaN]]', 'bf16')", "bf16 cannot hold element 2, nan"),
        ("SELECT pg_llm_quantize('[[1,2]]', 'float32')", '"float32" is not a format of weights'),
        ("SELECT pg_llm_format('1')", "is not that of a matrix"),
    ],
)
def test_mistakes(m, query, message):
    with pytest.raises(psycopg.Error, match=message):
        m.execute(query)
    assert m.execute("SELECT count(*) FROM llm_model_config WHERE model LIKE 'm%'").fetchone() == (1,)


def test_missing_weights_leave_nothing_behind(m):
    m.execute("DELETE FROM llm_param WHERE model = 'm' AND name = 'wpe.weight'")
    with pytest.raises(psycopg.errors.UndefinedObject, match='has no weights for "wpe.weight"'):
        m.execute("SELECT llm_quantize('m', 'int8')")
    assert m.execute("SELECT count(*) FROM llm_model_config WHERE model = 'm-int8'").fetchone() == (0,)


def test_shared_weights_are_copied(m):
    m.execute("SELECT llm_create_model('m2', 2, 2, 128, 16, 26)")
    m.execute("SELECT llm_init_model('m2', 5), llm_share_param('m', 'wte.weight', 'm2', 'wte.weight')")
    m.execute("SELECT llm_quantize('m2', 'bf16')")
    equal = "SELECT pg_llm_quantize(p.data, 'bf16')::bytea = q.data::bytea FROM llm_param p, llm_param q"
    where = " WHERE (p.model, p.name) = ('m', 'wte.weight') AND (q.model, q.name) = ('m2-bf16', 'wte.weight')"
    assert m.execute(equal + where).fetchone() == (True,)
