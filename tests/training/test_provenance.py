"""llm_provenance and llm_influence: against PyTorch's gradients of single rows and AdamW in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psycopg
import pytest
from helpers.checkpoints import bits, load, save
from helpers.tiny_model import make
from helpers.torch_gpt2 import random_gpt2
from helpers.training import fill

import pg_llm

SIZE = (2, 3, 33, 17, 101, {})
STEPS, LAST = 12, 9  # trained, and looked at
BETAS, EPS, WD, CLIP = (0.9, 0.95), 1e-8, 0.1, 0.5
OPTIONS = (
    f"lr_max => 1e-3, warmup => 2, min_lr => 1e-4, wd => {WD}, beta2 => {BETAS[1]}, grad_clip => {CLIP}, "
    "batch_size => 2, accumulation => 2, seed => 7, notice_every => 0"
)
ELEMENTS = {  # tied and not, in panels and row by row, a vector, which does not decay
    "wte.weight": [5, 3],
    "wpe.weight": [2, 11],
    "h.0.attn.c_attn.weight": [32, 70],
    "h.1.mlp.c_proj.weight": [100, 6],
    "h.1.ln_1.weight": [4],
}
PARTS = (
    "SELECT step, part, place, row_id, gradient, change, total, before::float8, after::float8, lr, clip "
    "FROM llm_provenance(%s, %s, %s::int[], %s, %s, %s)"
)


def provenance(conn, parameter, element, last=LAST, to=None, checkpoint=None, model="gpt"):
    """The rows of llm_provenance by name."""
    cursor = conn.execute(PARTS, [model, parameter, element, last, to, checkpoint])
    names = [column.name for column in cursor.description]
    return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in cursor]


def influence(conn, parameter, element, last=LAST, model="gpt"):
    cursor = conn.execute(
        "SELECT * FROM llm_influence(%s, %s, %s::int[], %s)", [model, parameter, element, last]
    )
    names = [column.name for column in cursor.description]
    return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in cursor]


def stored(conn, parameter, element, model="gpt"):
    query = (
        "SELECT tensor_get(data, VARIADIC %s::int[])::float8 FROM llm_param WHERE model = %s AND name = %s"
    )
    return conn.execute(query, [element, model, parameter]).fetchone()[0]


@pytest.fixture(scope="module")
def trained(database, tmp_path_factory):
    """PyTorch's account of a training: for each step and element the parts of the change, in float64.

    Rows have different numbers of targets, and gradients are clipped.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    model = random_gpt2(SIZE).float()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    folder = tmp_path_factory.mktemp("gpt")
    model.save_pretrained(folder)
    model.double()
    random = np.random.default_rng(5)
    rows = [random.integers(0, SIZE[4], n) for n in (13, 13, 9, 7, 13, 5, 11)]
    with pg_llm.connect(database) as conn:
        pg_llm.load_model(conn, folder, "gpt")
        ids = [fill_one(conn, "gpt", row) for row in rows]
        save(conn, "rows", "gpt")
        conn.execute(f"SELECT llm_train('gpt', {STEPS}, dropout_p => 0, dataset => 'gpt', {OPTIONS})")
        log = conn.execute(
            "SELECT step, lr, rows FROM llm_train_log WHERE model = 'gpt' ORDER BY step"
        ).fetchall()
    return torch_account(torch, model, dict(zip(ids, rows, strict=True)), log)


def fill_one(conn, dataset, tokens):
    query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES (%s, %s::int[], %s::int[]) RETURNING id"
    return conn.execute(query, (dataset, tokens[:-1].tolist(), tokens[1:].tolist())).fetchone()[0]


def torch_account(torch, model, data, log):
    """By step: for each element its value before and after, and each part; and the norm's clip factor."""
    names = {name.removeprefix("transformer."): p for name, p in model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in names.items()}
    v = {name: torch.zeros_like(p) for name, p in names.items()}
    account = []
    for step, lr, ids in log:
        total = sum(len(data[i]) - 1 for i in ids)
        each = []  # the rows' own gradients, one backward pass each
        for i in ids:
            row = torch.tensor(data[i])[None]
            out = model(row[:, :-1]).logits[0]
            loss = torch.nn.functional.cross_entropy(out, row[0, 1:], reduction="sum") / total
            each.append(dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True)))
        gradient = {name: sum(g[name] for g in each) for name in names}
        norm = sum(float((g**2).sum()) for g in gradient.values()) ** 0.5
        clip = min(1.0, CLIP / norm)
        now = {"clip": clip, "lr": lr, "ids": ids}
        for name, p in names.items():
            v[name] = BETAS[1] * v[name] + (1 - BETAS[1]) * (clip * gradient[name]) ** 2
            k = lr / (1 - BETAS[0] ** step) / ((v[name] / (1 - BETAS[1] ** step)).sqrt() + EPS)
            if name in ELEMENTS:
                at = tuple(ELEMENTS[name])
                rows = [float(g[name][at]) for g in each]
                added = [(1 - BETAS[0]) * clip * g for g in rows]
                now[name] = {
                    "before": p[at].item(),
                    "gradients": rows,
                    "k": float(k[at]),
                    "added": added,
                    "rows": [-float(k[at]) * a for a in added],
                    "momentum": float(-k[at] * BETAS[0] * m[name][at]),
                    "decay": -lr * WD * p[at].item() if p.ndim >= 2 else 0.0,
                }
            m[name] = BETAS[0] * m[name] + (1 - BETAS[0]) * clip * gradient[name]
            with torch.no_grad():
                p.mul_(1 - lr * WD if p.ndim >= 2 else 1.0).sub_(k * m[name])
            if name in ELEMENTS:
                now[name]["after"] = p[tuple(ELEMENTS[name])].item()
        account.append(now)
    return account


@pytest.mark.parametrize("parameter", ELEMENTS)
def test_parts_equal_pytorch(conn, trained, parameter):
    """Each row's gradient, momentum, decay, clip factor and rate, to a thousandth of the step."""
    found = provenance(conn, parameter, ELEMENTS[parameter])
    assert {part.step for part in found} == set(range(STEPS - LAST + 1, STEPS + 1))
    for step in range(STEPS - LAST + 1, STEPS + 1):
        theirs, ours = trained[step - 1], [part for part in found if part.step == step]
        mine = theirs[parameter]
        rows = [part for part in ours if part.part == "row"]
        assert [part.row_id for part in rows] == theirs["ids"] and [part.place for part in rows] == [
            1,
            2,
            3,
            4,
        ]
        scale = max(map(abs, mine["gradients"]))
        assert np.allclose([part.gradient for part in rows], mine["gradients"], rtol=0, atol=1e-3 * scale)
        size = sum(map(abs, mine["rows"])) + abs(mine["momentum"])
        assert np.allclose([part.change for part in rows], mine["rows"], rtol=0, atol=1e-3 * size)
        kinds = {part.part: part for part in ours}
        assert kinds["momentum"].change == pytest.approx(mine["momentum"], abs=1e-3 * size)
        assert kinds["decay"].change == pytest.approx(mine["decay"], rel=1e-3, abs=6e-8 * abs(mine["before"]))
        assert {part.lr for part in ours} == {theirs["lr"]}
        assert kinds["rest"].clip == pytest.approx(theirs["clip"], rel=1e-4) and theirs["clip"] < 1
        assert kinds["rest"].before == pytest.approx(mine["before"], abs=1e-5)
        assert kinds["rest"].after == pytest.approx(mine["after"], abs=1e-5)


@pytest.mark.parametrize("parameter", ELEMENTS)
def test_influence_equals_pytorch(conn, trained, parameter):
    """A row's change over all steps, with the momentum that it leaves, and the order of the rows."""
    moments, changes = {}, {}
    steps = [step[parameter] | {"ids": step["ids"]} for step in trained[-LAST:]]
    carried = -steps[0]["momentum"] / steps[0]["k"] / BETAS[0]
    before = 0.0
    for now in steps:
        moments = {row: BETAS[0] * m for row, m in moments.items()}
        for row, added in zip(now["ids"], now["added"], strict=True):
            moments[row] = moments.get(row, 0.0) + added
        for row, moment in moments.items():
            changes[row] = changes.get(row, 0.0) - now["k"] * moment
        carried *= BETAS[0]
        before -= now["k"] * carried
    found = influence(conn, parameter, ELEMENTS[parameter])
    size = sum(map(abs, changes.values()))
    rows = [row for row in found if row.row_id]
    assert {row.row_id for row in rows} == set(changes) and {row.dataset for row in rows} == {"gpt"}
    for row in rows:
        assert row.change == pytest.approx(changes[row.row_id], abs=2e-3 * size)
        assert row.steps == sum(row.row_id in now["ids"] for now in steps)
    assert [row.rank for row in rows] == list(range(1, len(rows) + 1))
    assert [abs(row.change) for row in rows] == sorted((abs(row.change) for row in rows), reverse=True)
    others = {row.part: row for row in found if row.row_id is None}
    assert others["momentum"].change == pytest.approx(before, abs=2e-3 * size)
    assert others["decay"].change == pytest.approx(sum(now["decay"] for now in steps), rel=1e-2, abs=1e-6)
    assert sum(row.share for row in found) == pytest.approx(1)
    whole = (
        stored(conn, parameter, ELEMENTS[parameter])
        - provenance(conn, parameter, ELEMENTS[parameter])[0].before
    )
    assert sum(row.change for row in found) == pytest.approx(whole, abs=1e-12)


@pytest.fixture
def m(conn):
    """A model of letters at step 0 with a checkpoint, and rows of unequal lengths."""
    conn.execute("DELETE FROM llm_checkpoint WHERE model = 'm'; DELETE FROM llm_train_run WHERE model = 'm'")
    conn.execute(
        "DELETE FROM llm_model_config WHERE model = 'm'; DELETE FROM llm_bpe_vocab WHERE model = 'm'"
    )
    make(conn, "m", gain=3)
    fill(conn, "letters", np.random.default_rng(4).integers(0, 26, (7, 9)))
    conn.execute(
        "UPDATE llm_dataset SET tokens = tokens[1:5], target = target[1:5] "
        "WHERE id IN (SELECT id FROM llm_dataset WHERE dataset = 'letters' ORDER BY id DESC LIMIT 3)"
    )
    save(conn, "rows")
    return conn


def train(conn, steps, dropout=0.0):
    conn.execute(f"SELECT llm_train('m', {steps}, dropout_p => {dropout}, dataset => 'letters', {OPTIONS})")


WEIGHT = ("h.0.attn.c_attn.weight", [3, 2])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_parts_add_up(m, dropout):
    """To the change exactly; the rest is rounding, also with dropout, where each row has its own mask."""
    train(m, 6, dropout)
    for parameter, element in {"wte.weight": [4, 1], "ln_f.bias": [2], WEIGHT[0]: WEIGHT[1]}.items():
        found = provenance(m, parameter, element, 6, model="m")
        for step in range(1, 7):
            ours = [part for part in found if part.step == step]
            change = ours[0].after - ours[0].before
            assert sum(part.change for part in ours) == pytest.approx(change, abs=1e-15)
            (rest,) = (part for part in ours if part.part == "rest")
            size = sum(abs(part.change) for part in ours)
            assert abs(rest.change) <= 2.0**-23 * abs(rest.before) + 1e-5 * size
            assert change != 0 and size > 1e-5
        assert sum(part.total or 0 for part in found) == pytest.approx(
            found[-1].after - found[0].before, abs=1e-15
        )
        assert found[-1].after == stored(m, parameter, element, "m")
        # the same steps, some of them replayed only: the same parts
        assert [vars(p) | {"total": 0} for p in provenance(m, parameter, element, 2, model="m")] == [
            vars(p) | {"total": 0} for p in found if p.step > 4
        ]


def test_a_row_in_its_batch_is_the_row_alone(m):
    """With dropout a row is computed inside its batch; dropout that drops nothing gives the same parts."""
    train(m, 4)
    alone = provenance(m, *WEIGHT, 4, model="m")
    m.execute("UPDATE llm_train_run SET dropout_p = 1e-30 WHERE model = 'm'")
    inside = provenance(m, *WEIGHT, 4, model="m")
    size = max(abs(part.gradient) for part in alone if part.gradient)
    assert [part.row_id for part in inside] == [part.row_id for part in alone]
    for one, other in zip(alone, inside, strict=True):
        assert (one.gradient or 0) == pytest.approx(other.gradient or 0, abs=1e-4 * size)


def test_nothing_changes(m, connect):
    """Weights, moments, version, log and checkpoints stay, also after a cancel and beside a training."""
    train(m, 40, 0.1)
    tables = "SELECT (SELECT array_agg(v::text) FROM llm_model_version v WHERE model = 'm'), "
    tables += "(SELECT md5(string_agg(l::text, '' ORDER BY id)) FROM llm_train_log l), "
    tables += "(SELECT md5(string_agg(c::text, '' ORDER BY id)) FROM llm_checkpoint c)"
    before = bits(m), m.execute(tables).fetchone(), m.execute("SELECT llm_model_sha256('m')").fetchone()
    whole = provenance(m, *WEIGHT, 40, model="m")
    m.execute("SET statement_timeout = 1")
    try:
        with pytest.raises(psycopg.errors.QueryCanceled):
            provenance(m, *WEIGHT, 40, model="m")
    finally:
        m.execute("RESET statement_timeout")
    assert m.execute("SELECT count(*) FROM llm_progress").fetchone() == (0,)
    other = connect()
    with other.transaction(force_rollback=True):
        train(other, 2)
        assert provenance(m, *WEIGHT, 40, model="m") == whole
    assert (
        bits(m),
        m.execute(tables).fetchone(),
        m.execute("SELECT llm_model_sha256('m')").fetchone(),
    ) == before


def test_a_role_that_only_reads(m):
    train(m, 3)
    whole = provenance(m, *WEIGHT, 3, model="m")
    m.execute("CREATE ROLE history; GRANT SELECT ON ALL TABLES IN SCHEMA public TO history; SET ROLE history")
    try:
        assert provenance(m, *WEIGHT, 3, model="m") == whole
    finally:
        m.execute("RESET ROLE; DROP OWNED BY history; DROP ROLE history")


def test_which_checkpoint(m):
    """The nearest one that leads there; of a model that was set back, none of the other branch."""
    train(m, 3)
    third = save(m, "rows")
    train(m, 4)
    other = save(m, "rows")  # of step 7, on a branch that is left
    load(m, third)
    train(m, 6)
    plan = "SELECT checkpoint, first_step, last_step, cardinality(log_ids) "
    plan += "FROM _llm_provenance_plan('m', %s, %s, NULL)"
    assert m.execute(plan, [1, None]).fetchone() == (third, 9, 9, 6)
    assert other not in [m.execute(plan, [n, None]).fetchone()[0] for n in range(1, 10)]
    assert m.execute(plan, [8, None]).fetchone()[1:] == (2, 9, 9)
    assert {part.step for part in provenance(m, *WEIGHT, 100, model="m")} == set(range(1, 10))
    m.execute("DELETE FROM llm_checkpoint WHERE id <> %s AND model = 'm'", [third])
    notices = []
    m.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    assert {part.step for part in provenance(m, *WEIGHT, 100, model="m")} == set(range(4, 10))
    assert any("the last 6 steps alone can be computed" in notice for notice in notices)


def refused(
    conn, error, text, parameter=WEIGHT[0], element=WEIGHT[1], last=1, to=None, checkpoint=None, model="m"
):
    with pytest.raises(error, match=text):
        provenance(conn, parameter, element, last, to, checkpoint, model)


def test_errors(m):
    """Each says what is missing."""
    e = psycopg.errors
    refused(m, e.NoData, 'llm_train_log has no step of model "m"')
    train(m, 3)
    refused(m, e.UndefinedObject, 'has no parameter "h.9.bias"', "h.9.bias")
    refused(m, e.UndefinedObject, 'has no parameter "logits"', "logits")
    refused(m, e.ArraySubscriptError, r"element has 1 indexes, .* \(8,24\)", element=[1])
    refused(m, e.ArraySubscriptError, r"index 24 is outside of axis 1 .* \(8,24\)", element=[1, 24])
    refused(m, e.ArraySubscriptError, "element has 2 indexes", element=[1, None])
    refused(m, e.ArraySubscriptError, "element has 0 indexes", element=[])
    refused(m, e.NullValueNotAllowed, "must not be NULL", element=None)
    refused(m, e.InvalidParameterValue, "last_steps is 0", last=0)
    refused(m, e.NoData, 'has no step 77 of model "m"', to=77)
    refused(m, e.UndefinedObject, "there is no checkpoint 0", checkpoint=0)
    refused(m, psycopg.Error, 'no model "nobody"', model="nobody")
    assert provenance(m, WEIGHT[0], [-5, -22], model="m") == provenance(m, *WEIGHT, model="m")


def test_what_was_changed_since(m):
    """Rows of the dataset, the weights, the log, the frozen parameter."""
    e = psycopg.errors
    train(m, 3)
    with m.transaction(force_rollback=True):
        m.execute("UPDATE llm_dataset SET target = tokens WHERE dataset = 'letters'")
        refused(m, e.ObjectNotInPrerequisiteState, "rows of llm_dataset have changed since")
    with m.transaction(force_rollback=True):
        m.execute("DELETE FROM llm_dataset WHERE dataset = 'letters'")
        refused(m, e.NoData, "that these steps were trained on are missing")
    with m.transaction(force_rollback=True):
        m.execute("UPDATE llm_param SET data = data + 1::real::tensor WHERE model = 'm'")
        refused(m, e.ObjectNotInPrerequisiteState, "is stored")
    with m.transaction(force_rollback=True):
        m.execute("UPDATE llm_train_log SET loss = loss + 1 WHERE model = 'm' AND step = 2")
        refused(m, e.ObjectNotInPrerequisiteState, 'step 2 of model "m" does not repeat')
    with m.transaction(force_rollback=True):
        m.execute("DELETE FROM llm_train_log WHERE model = 'm' AND step = 3")
        assert len({part.step for part in provenance(m, *WEIGHT, 5, 2, model="m")}) == 2
        refused(m, e.ObjectNotInPrerequisiteState, "is at step 3, and the newest row of its log is of step 2")
    with m.transaction(force_rollback=True):
        m.execute("DELETE FROM llm_checkpoint WHERE model = 'm'")
        refused(m, e.NoData, 'no checkpoint of model "m" leads to step 3')
    with m.transaction(force_rollback=True):
        frozen = (
            "UPDATE llm_graph SET attrs = attrs || '{\"trainable\": false}' WHERE model = 'm' AND name = %s"
        )
        m.execute(frozen, [WEIGHT[0]])
        refused(m, e.ObjectNotInPrerequisiteState, "is not trained")
