"""The widgets without a browser: what they show after events, and that they leave the database as it was."""

from __future__ import annotations

import json
import re

import nbformat
import numpy as np
import psycopg
import pytest
from helpers.jupyter_kernel import Kernel
from psycopg import pq

import pg_llm
from pg_llm.errors import KitError
from pg_llm.notebook import saving
from pg_llm.server import database as databases
from pg_llm.widgets import embeddings, tokens
from pg_llm.widgets.sampling import sampled

STORY = "It was spring. There was a paper key Ruth Gray took to the tent. Ruth"


@pytest.fixture(scope="module")
def classroom(server):
    """Name of a database with the classroom's models and GPT-2's tokenizer."""
    name = "test_widgets_classroom"
    databases.drop_database(name)
    databases.create_database(name)
    with pg_llm.connect(name) as connection:
        recorded(connection, NEURON)
    yield name
    databases.drop_database(name)


@pytest.fixture
def conn(classroom):
    with pg_llm.connect(classroom) as connection:
        yield connection


def state(conn) -> list:
    """What a widget could have changed: graph, parameters, runs, tape, and the version of each model."""
    return conn.execute(
        "SELECT (SELECT array_agg(g::text ORDER BY model, id) FROM llm_graph g), "
        "(SELECT array_agg(v::text ORDER BY model) FROM llm_model_version v), "
        "(SELECT count(*) FROM llm_run), (SELECT count(*) FROM llm_tape), "
        "(SELECT count(*) FROM llm_tensor_rt), "
        "(SELECT sum(n_tup_ins + n_tup_upd) FILTER (WHERE relname = 'llm_param') FROM pg_stat_user_tables)"
    ).fetchall()


def after(bar: dict) -> tuple[str, float]:
    return bar["token"], bar["after"]


# -- the prompt box ----


def test_the_bars_are_the_models_distribution(conn):
    box = pg_llm.prompt_box("It was", conn=conn)
    rows = conn.execute(
        "SELECT token, probability FROM llm_next_tokens('It was', 10, 'classroom')"
    ).fetchall()
    assert [after(bar) for bar in box.view["bars"]] == [(t, pytest.approx(p, rel=1e-6)) for t, p in rows]
    assert box.view["kept"] == box.view["all"] == 786
    assert sum(b["after"] for b in box.view["bars"]) + box.view["rest"]["after"] == pytest.approx(1)


def test_the_sliders_change_what_is_drawn_from(conn):
    box = pg_llm.prompt_box("It was", conn=conn)
    first = box.view["bars"][0]
    box.temperature = 0.5
    assert box.view["bars"][0]["after"] > first["after"] and box.view["bars"][0]["before"] == first["before"]
    box.temperature, box.top_k = 1.0, 3
    assert [bar["after"] > 0 for bar in box.view["bars"]] == [True] * 3 + [False] * 7
    assert box.view["kept"] == 3 and sum(bar["after"] for bar in box.view["bars"]) == pytest.approx(1)
    box.top_k, box.top_p = 0, 0.3
    total, kept = 0.0, 0
    for bar in box.view["bars"]:
        kept += total < 0.3
        total += bar["before"]
    assert box.view["kept"] == kept
    box.temperature = 0
    assert [bar["after"] for bar in box.view["bars"]] == [1] + [0] * 9


@pytest.mark.parametrize(
    "temperature, top_k, top_p", [(1, None, None), (0.7, 5, None), (1.5, None, 0.8), (2, 6, 0.5)]
)
def test_what_is_left_is_what_pg_llm_sample_draws(conn, temperature, top_k, top_p):
    """Of a thousand draws, each token comes as often as its bar says, and none that is left out."""
    logits = np.log(np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05], np.float32))
    expected = sampled(np.exp(logits), temperature, top_k, top_p)
    query = "SELECT pg_llm_sample(%s::tensor, %s, %s, %s, seed) FROM generate_series(1, 1000) AS seed"
    drawn = conn.execute(query, (logits, temperature, top_k, top_p)).fetchall()
    shares = np.bincount([row[0] for row in drawn], minlength=7) / 1000
    assert (shares[expected == 0] == 0).all() and np.abs(shares - expected).max() < 0.05


def test_a_bar_appends_its_token(conn):
    box = pg_llm.prompt_box("It was", conn=conn)
    token = box.view["bars"][0]["token"]
    box.append(token)
    assert box.prompt == "It was" + token and box.view["pieces"][-1]["text"] == token
    assert box.draw_token(seed=1) == box.draw_token(seed=1)
    box.top_k = 1
    box.told({"kind": "draw"})
    assert box.prompt.startswith("It was" + token) and len(box.view["pieces"]) == 4


def test_unknown_words_have_a_reason(conn):
    pieces = {
        p["text"]: p["unknown"]
        for p in pg_llm.prompt_box("It was Mia, the the Äpfel", conn=conn).view["pieces"]
    }
    assert not pieces["It"] and not pieces[" was"] and not pieces[" the"]
    assert "227 words" in pieces[" Mia"] and "3 tokens" in pieces[" Mia"] and "␣M · i · a" in pieces[" Mia"]
    assert "\\xc3" in pieces[" Äpfel"]
    start = pg_llm.prompt_box("Lucy", conn=conn).view["pieces"][0]["unknown"]
    assert "without a space" in start


def test_an_intermediate_token_is_no_word(conn):
    """Lu is a token, made on the way to Lucy and Luke, but no word of the stories."""
    piece = pg_llm.prompt_box("It was Lu", conn=conn).view["pieces"][-1]
    assert len(piece["tokens"]) == 1 and "only inside other words" in piece["unknown"]


def test_the_prompts_to_try_are_known_words_and_beginnings_of_stories(conn):
    box = pg_llm.prompt_box("It was", conn=conn)
    chips = box.view["chips"]
    assert len(chips) >= 5 and len({chip["kind"] for chip in chips}) == len(chips)
    for chip in chips:
        assert conn.execute("SELECT count(*) FROM llm_story_next(%s)", (chip["text"],)).fetchone()[0]
        box.prompt = chip["text"]
        assert not [p["text"] for p in box.view["pieces"] if p["unknown"]]


# -- transactions and errors ----


NEURON = "miss * miss FROM (SELECT tanh(llm_var('0.5', 'w') * llm_var('2', 'x')) - '1' AS miss) AS neuron"


def recorded(conn, expression: str) -> int:
    """The run of an expression and its backward pass."""
    conn.execute("SET pg_llm.autograd = on")
    conn.execute(f"SELECT * FROM llm_backward((SELECT {expression}))")
    conn.execute("SET pg_llm.autograd = off")
    return conn.execute("SELECT max(run) FROM llm_run").fetchone()[0]


def every(conn) -> list:
    return [
        pg_llm.prompt_box(STORY, conn=conn),
        pg_llm.attention_explorer(STORY, conn=conn),
        pg_llm.tokenizer_view(conn=conn),
        pg_llm.logit_lens(STORY, conn=conn),
        pg_llm.architecture(conn=conn),
        pg_llm.embedding_map(conn=conn),
        pg_llm.tape_stepper(conn.execute("SELECT min(run) FROM llm_run").fetchone()[0], conn=conn),
    ]


def move(widget) -> None:
    """Changes each widget's controls."""
    name = type(widget).__name__
    if name == "PromptBox":
        widget.temperature = 0.3
    elif name == "AttentionExplorer":
        widget.switch(3, 2)
    elif name in ("TokenizerView", "LogitLens"):
        widget.text = "other words"
    elif name == "EmbeddingMap":
        widget.choose("garden")
    elif name == "TapeStepper":
        widget.step = 3
        widget.refresh()
    else:
        widget.unfold = ["h.1"]


def test_the_database_is_unchanged_and_no_transaction_stays_open(conn):
    before = state(conn)
    for widget in every(conn):
        move(widget)
        assert not widget.error and widget.view["n"] >= 2
        assert conn.info.transaction_status == pq.TransactionStatus.IDLE
    assert state(conn) == before


def test_an_open_transaction_is_seen_and_left_as_it_was(conn):
    conn.execute("BEGIN")
    conn.execute(
        "UPDATE llm_param SET data = zeros(shape(data)) WHERE model = 'classroom' AND name = 'wpe.weight'"
    )
    conn.execute("SAVEPOINT mine")
    conn.execute("CREATE TABLE still_there AS SELECT 1 AS a")
    expected = conn.execute("SELECT token FROM llm_next_tokens(%s, 10, 'classroom')", (STORY,)).fetchall()
    widgets = every(conn)
    for widget in widgets:
        move(widget)
        assert conn.info.transaction_status == pq.TransactionStatus.INTRANS
    assert [bar["token"] for bar in widgets[0].view["bars"]] == [row[0] for row in expected]
    assert conn.execute("SELECT a FROM still_there").fetchone() == (1,)
    conn.execute("ROLLBACK TO SAVEPOINT mine")  # the learner's own savepoint is still there, too
    conn.execute("ROLLBACK")
    widgets[0].refresh()
    assert widgets[0].view["bars"][0]["token"] == " Gray"


def test_an_error_leaves_the_open_transaction_usable(conn):
    box = pg_llm.prompt_box("It was", conn=conn)
    conn.execute("BEGIN")
    box.model = "no such model"
    assert "there is no model" in box.error and "HINT" in box.error
    assert conn.info.transaction_status == pq.TransactionStatus.INTRANS
    assert conn.execute("SELECT 1").fetchone() == (1,)
    conn.execute("ROLLBACK")
    seen = box.view["n"]
    box.model = "classroom"
    assert not box.error and box.view["n"] > seen


def test_a_failed_transaction_is_named(conn):
    box = pg_llm.prompt_box("It was", conn=conn)
    conn.execute("BEGIN")
    with pytest.raises(psycopg.Error):
        conn.execute("SELECT 1/0")
    box.temperature = 0.5
    assert "ROLLBACK" in box.error and conn.info.transaction_status == pq.TransactionStatus.INERROR
    conn.execute("ROLLBACK")
    box.refresh()
    assert not box.error


def test_the_first_error_fails_the_cell(conn):
    with pytest.raises(psycopg.Error, match="no model"):
        pg_llm.prompt_box("It was", "no such model", conn=conn)
    with pytest.raises(KitError, match="llm_graph"):
        pg_llm.architecture("no such model", conn=conn)
    with pytest.raises(KitError, match="shorten"):
        pg_llm.attention_explorer("It was spring. " * 20, conn=conn)


def test_a_recording_does_not_contain_what_a_widget_reads(conn):
    conn.execute("SET pg_llm.autograd = on")
    before = state(conn)
    every(conn)
    assert state(conn) == before and conn.execute("SHOW pg_llm.autograd").fetchone() == ("on",)


# -- the attention explorer ----


def test_the_weights_are_those_of_the_view(conn):
    explorer = pg_llm.attention_explorer(STORY, conn=conn)
    weights = np.frombuffer(explorer.weights, np.float32).reshape(4, 4, 17, 17)
    assert np.allclose(weights.sum(axis=3), 1, atol=1e-5) and (np.triu(weights[0, 0], 1) == 0).all()
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT llm_trace('classroom', llm_encode(%s, 'classroom'))", (STORY,))
        rows = conn.execute(
            "SELECT key, weight FROM llm_attention_map WHERE run = (SELECT max(run) FROM llm_run) "
            "AND layer = 3 AND head = 2 AND query = 16 ORDER BY key"
        ).fetchall()
    assert weights[3, 2, 16, : len(rows)].tolist() == pytest.approx([row[1] for row in rows], rel=1e-6)
    assert (explorer.layer, explorer.head) == explorer.sharpest()


def test_a_head_that_is_off_changes_the_prediction(conn):
    explorer = pg_llm.attention_explorer(STORY, conn=conn)
    assert [bar["before"] for bar in explorer.view["bars"]] == [bar["after"] for bar in explorer.view["bars"]]
    for head in range(4):
        explorer.switch(3, head)
    first = explorer.view["bars"][0]
    assert first["token"] == " Gray" and first["before"] > 0.9 and first["after"] < first["before"]
    with conn.transaction(force_rollback=True):
        conn.execute(explorer.view["sql"][0])
        row = conn.execute(
            "SELECT probability FROM llm_next_tokens(%s, NULL, 'classroom') WHERE token = ' Gray'", (STORY,)
        )
        assert row.fetchone()[0] == first["after"]
    explorer.switch(3, 0)
    assert [3, 0] not in explorer.off
    explorer.off = []
    assert explorer.view["bars"][0]["after"] == first["before"] and not explorer.view["sql"]


def test_a_mask_that_is_there_already_is_kept(conn):
    with conn.transaction(force_rollback=True):
        conn.execute(
            "UPDATE llm_graph SET attrs = attrs || '{\"head_mask\": [0, 1, 1, 1]}' "
            "WHERE model = 'classroom' AND name = 'h.3.attn.heads'"
        )
        explorer = pg_llm.attention_explorer(STORY, conn=conn)
        explorer.switch(3, 2)
        assert '"head_mask": [0, 1, 0, 1]' in explorer.view["sql"][0]


# -- the tokenizer view ----


@pytest.mark.parametrize("tokenizer", ["gpt2", "classroom"])
@pytest.mark.parametrize(
    "text", ["It was antidisestablishmentarianism!", "the the  Äpfel\n1234 'tis 🙂", " a"]
)
def test_all_merges_give_the_servers_tokens(conn, text, tokenizer):
    view = pg_llm.tokenizer_view(text, tokenizer, conn=conn)
    ids = [token["id"] for piece in view.stage()["pieces"] for token in piece]
    assert ids == conn.execute("SELECT llm_encode(%s, %s)", (text, tokenizer)).fetchone()[0]
    view.merges = 0
    assert len(view.tokens()) == len(text.encode())


def test_the_first_merges_are_a_tokenizer_with_only_those(conn):
    """A tokenizer without the merges from rank 800 on gives the same tokens as the view at 800."""
    with conn.transaction(force_rollback=True):
        view = pg_llm.tokenizer_view("unbelievable tokenizers read", "gpt2", conn=conn, merges=800)
        conn.execute("DELETE FROM llm_bpe_merges WHERE model = 'gpt2' AND rank >= 800")
        ids = conn.execute("SELECT llm_encode('unbelievable tokenizers read', 'gpt2')").fetchone()[0]
        assert [token["id"] for piece in view.stage()["pieces"] for token in piece] == ids
    counts = [sum(map(len, stage["pieces"])) for stage in view.view["stages"]]
    assert counts == sorted(counts, reverse=True)


def test_merges_apply_lowest_rank_first():
    ranks = {("a", "b"): 1, ("b", "c"): 0, ("a", "bc"): 2}
    assert tokens.bpe(list("abcab"), ranks, 0) == list("abcab")
    assert tokens.bpe(list("abcab"), ranks, 2) == ["a", "bc", "ab"]
    assert tokens.bpe(list("abcab"), ranks, 3) == ["abc", "ab"]


# -- the architecture ----


def test_the_drawing_has_a_box_for_each_row_and_the_right_counts(conn):
    drawing = pg_llm.architecture(conn=conn)
    total = conn.execute("SELECT sum(numel(data)) FROM llm_param WHERE model = 'classroom'").fetchone()[0]
    assert drawing.view["total"] == total and f"{total:,} parameters" in drawing.draw()
    inside = conn.execute(
        "SELECT name FROM llm_graph WHERE model = 'classroom' AND name LIKE 'h.0%' AND op <> 'param'"
    ).fetchall()
    assert {f"h.0/{name}" for (name,) in inside} <= {*drawing.view["nodes"]}
    whole = {name for name in drawing.view["nodes"] if name.startswith("classroom/")}
    assert {"classroom/h.0", "classroom/h.3", "classroom/wte", "classroom/loss"} <= whole
    assert drawing.view["nodes"]["classroom/h.0"]["count"] == 198272
    assert drawing.view["nodes"]["classroom/logits"]["shares"] == "wte.weight"
    drawing.unfold = []
    assert not any(name.startswith("h.0/") for name in drawing.view["nodes"])


def test_other_rows_are_another_drawing(conn):
    before = pg_llm.architecture(conn=conn).draw()
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE llm_graph SET op = 'relu' WHERE model = 'classroom' AND name = 'h.0.mlp.act'")
        # a parallel residual: the second norm reads the block's input
        conn.execute(
            "UPDATE llm_graph SET inputs = ARRAY['drop', 'h.0.ln_2.weight', 'h.0.ln_2.bias'] "
            "WHERE model = 'classroom' AND name = 'h.0.ln_2'"
        )
        other = pg_llm.architecture(conn=conn)
        assert other.draw() != before and other.view["nodes"]["h.0/h.0.mlp.act"]["op"] == "relu"
    assert pg_llm.architecture(conn=conn).draw() == before


def test_a_model_without_weights_is_drawn_from_its_dimensions(conn):
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT llm_create_model('bare', 12, 2, 8, 16, 20)")
        bare = pg_llm.architecture("bare", conn=conn).view
        conn.execute("SELECT llm_init_model('bare', 1)")
        total = conn.execute("SELECT sum(numel(data)) FROM llm_param WHERE model = 'bare'").fetchone()[0]
    assert bare["total"] == total and bare["blocks"][-1] == "h.11"


# -- the embedding map ----


def test_the_neighbours_are_those_of_a_query_over_all_rows(conn):
    seen = pg_llm.embedding_map(chosen="Tom", conn=conn)
    near = [(each["key"], pytest.approx(each["cosine"], rel=1e-5)) for each in seen.view["near"]]
    rows = conn.execute(
        "SELECT r.token_id::text, (tensor_sum(r.data * t.data) / (norm(r.data) * norm(t.data)))::real AS c "
        "FROM llm_param_row AS r JOIN llm_param_row AS t USING (model, name) WHERE model = 'classroom' "
        "AND name = 'wte.weight' AND t.token_id = (llm_encode(' Tom', 'classroom'))[1] "
        "AND r.token_id <> t.token_id ORDER BY c DESC LIMIT 8"
    ).fetchall()
    assert rows == near
    assert conn.execute(seen.view["sql"].replace("%", "%%")).fetchall() == rows  # what the reader sees runs
    kinds = {p["key"]: p["kind"] for p in seen.view["points"]}
    assert {kinds[key] for key, _ in rows} == {"first name"}
    assert "Nearest to “␣Tom”" in seen.describe() and seen.draw().count('stroke-width="2"') >= 1


def test_every_word_of_the_stories_has_a_kind_or_is_other(conn):
    points = pg_llm.embedding_map(conn=conn).view["points"]
    by_kind: dict[str, set[str]] = {}
    for point in points:
        by_kind.setdefault(point["kind"], set()).add(point["label"])
    assert {"␣Ruth", "␣Tom"} <= by_kind["first name"] and "␣Gray" in by_kind["surname"]
    assert "␣tent" in by_kind["place"] and "␣iron" in by_kind["adjective"] and "␣key" in by_kind["thing"]
    assert "␣spring" in by_kind["time of year"] and "␣took" in by_kind["other"]
    assert len(by_kind) == 10 and len(points) > 200


def test_the_plane_is_that_of_the_principal_components():
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    flat = np.stack([3 * np.cos(angles), np.sin(angles), 0 * angles, 5 + 0 * angles], axis=1)
    points, share = embeddings.principal(flat)
    assert share == pytest.approx(1)
    assert (
        np.abs(points[:, 0]) == pytest.approx(np.abs(flat[:, 0]))
        and points[:, 0].max() >= -points[:, 0].min()
    )
    again, _ = embeddings.principal(flat[:, [3, 1, 0, 2]])  # the same points, however they are turned
    assert again == pytest.approx(points)
    line, share = embeddings.principal(np.array([[1.0], [2.0], [4.0]]))
    assert share == 1 and (line[:, 1] == 0).all()


def test_a_map_of_another_matrix_of_chosen_words_and_of_a_query(conn):
    positions = pg_llm.embedding_map(parameter="wpe.weight", conn=conn).view
    assert [p["label"] for p in positions["points"][:3]] == ["0", "1", "2"] and len(
        positions["points"]
    ) == 128
    some = pg_llm.embedding_map(words=["Ruth", "Tom", " tent"], conn=conn)
    assert [p["label"] for p in some.view["points"]] == ["␣Tom", "␣tent", "␣Ruth"] or len(
        some.view["points"]
    ) == 3
    big = pg_llm.embedding_map("classroom", words=["red", "blue", "green"], chosen="Blue", conn=conn)
    assert "Nearest to “␣blue”" in big.describe()
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE TABLE mine AS SELECT i, tensor '[1,0]' * cos(i) + tensor '[0,1]' * sin(i) AS v "
                     "FROM generate_series(1, 6) AS i")  # fmt: skip
        mine = pg_llm.embedding_map(query="SELECT i, v, i % 2 FROM mine ORDER BY i;", chosen="6", conn=conn)
        assert [each["label"] for each in mine.view["near"][:2]] == ["5", "1"]
        assert mine.view["near"][0]["cosine"] == pytest.approx(np.cos(1), abs=1e-6)
        assert {p["kind"] for p in mine.view["points"]} == {"0", "1"} and "% 2 FROM mine" in mine.view["sql"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"parameter": "nope"}, "has no matrix 'nope'"),
        ({"model": "nobody"}, "no such model"),
        ({"words": ["zebra", "Tom"]}, "no single token"),
        ({"query": "SELECT 1"}, "expected label, vector"),
        ({"query": "SELECT 1, 2"}, "must be a vector"),
        ({"query": "SELECT i, tensor '[1]' FROM generate_series(1, 700) AS i"}, "LIMIT 600"),
        ({"query": "SELECT 1, tensor '[1]'"}, "three vectors"),
        (
            {"query": "SELECT i, zeros(ARRAY[i]) FROM generate_series(1, 3) AS i"},
            "different lengths: 1, 2, 3",
        ),
        ({"chosen": "nothing"}, "no point"),
    ],
)
def test_a_map_that_cannot_be_is_an_error_that_says_why(conn, options, message):
    with pytest.raises(KitError, match=re.escape(message)):
        pg_llm.embedding_map(conn=conn, **options)


# -- the tape stepper ----


def gradients(conn, run: int) -> dict[str, float]:
    rows = conn.execute(
        "SELECT id, grad::float8 FROM llm_tensor_rt WHERE run = %s AND grad IS NOT NULL", (run,)
    ).fetchall()
    return {str(key): value for key, value in rows}


@pytest.mark.parametrize(
    "expression",
    [
        NEURON,
        "e / (e + 1) FROM (SELECT exp((llm_var('0.5', 'w') * '2') - llm_var('1', 'b')) AS e) AS z",
        "sin(log(x) / sqrt(y)) + cos(-relu(x)) FROM (SELECT llm_var('3', 'x') x, llm_var('2', 'y') y) AS v",
    ],
)
def test_the_contributions_add_up_to_the_gradients_of_the_database(conn, expression):
    run = recorded(conn, expression)
    steps = pg_llm.tape_stepper(run, conn=conn).view["steps"]
    assert all("of 2" not in text for step in steps for text in step["gradients"].values())
    came = {key: float(text.replace("−", "-")) for key, text in steps[-1]["gradients"].items()}
    wanted = gradients(conn, run)
    assert came == pytest.approx(wanted, rel=1e-3) and len(came) > 4


def test_it_goes_forward_and_then_backward(conn):
    stepper = pg_llm.tape_stepper(recorded(conn, NEURON), conn=conn)
    rows, steps = stepper.view["rows"], stepper.view["steps"]
    phases = [step["phase"] for step in steps]
    assert phases == ["start", *["forward"] * 4, "seed", *["backward"] * 4] and len(rows) == 4
    assert [s["row"] for s in steps[1:5]] == [row["id"] for row in rows]
    assert [s["row"] for s in steps[6:]] == [row["id"] for row in reversed(rows)]
    # The square reads miss twice: after its row, both contributions are there.
    miss = rows[3]["reads"]
    assert miss[0] == miss[1] and steps[6]["text"].count(f"{miss[0]} gets") == 2
    stepper.step = 1
    assert "row 1" in stepper.describe() and "gradient" not in stepper.describe()


def test_a_run_without_a_backward_pass_only_goes_forward(conn):
    conn.execute("SET pg_llm.autograd = on")
    conn.execute("SELECT mean(llm_var('[1,2]', 'v') * '[3,4]')")
    conn.execute("SET pg_llm.autograd = off")
    stepper = pg_llm.tape_stepper(conn=conn)
    assert [step["phase"] for step in stepper.view["steps"]] == ["start", "forward", "forward"]
    assert "norm" in stepper.describe()


def test_a_tape_that_is_too_long_or_not_there_is_refused(conn):
    run = conn.execute("SELECT llm_trace('classroom', llm_encode('It was May', 'classroom'))").fetchone()[0]
    with pytest.raises(KitError, match="up to 45 rows"):
        pg_llm.tape_stepper(run, conn=conn)
    with pytest.raises(KitError, match="llm_run"):
        pg_llm.tape_stepper(987654, conn=conn)


# -- pictures, saved notebooks, kernels ----


def test_every_widget_has_a_picture_and_words_for_it(conn, tmp_path):
    for widget in every(conn):
        data, _ = widget._repr_mimebundle_()
        assert {*data} == {"text/plain", "text/html"}  # there is no kernel here
        alt = re.search(r'alt="([^"]+)"', data["text/html"]).group(1)
        assert len(alt) > 60 and repr(widget) == data["text/plain"] == str(widget.picture())
        assert "data:image/svg+xml;base64," in data["text/html"] and "<script" not in data["text/html"]
        file = tmp_path / "picture.svg"
        widget.picture().save(file)
        assert file.read_text().startswith("<svg xmlns=")


def test_names_are_escaped(conn):
    for widget in (pg_llm.prompt_box("<b>&", conn=conn), pg_llm.tokenizer_view("<b>&\"'", conn=conn)):
        assert "<b>" not in widget.draw()


def test_a_saved_notebook_keeps_the_picture_only():
    live = {
        saving.VIEW: {"model_id": "x"},
        "text/html": f'<figure class="{saving.MARK}">',
        "text/plain": "words",
    }
    others = {saving.VIEW: {"model_id": "y"}, "text/plain": "Button()"}
    cell = nbformat.v4.new_code_cell(
        outputs=[nbformat.v4.new_output("display_data", d) for d in (live, others)]
    )
    model = {"type": "notebook", "content": nbformat.v4.new_notebook(cells=[cell])}
    saving.before_saving(model, path="a.ipynb", contents_manager=None)
    outputs = model["content"]["cells"][0]["outputs"]
    assert saving.VIEW not in outputs[0]["data"] and saving.VIEW in outputs[1]["data"]
    assert saving.keep_pictures(json.loads(json.dumps(model["content"]))) == 0
    saving.before_saving({"type": "file", "content": "text"})


@pytest.mark.slow
def test_in_a_kernel_the_output_is_both_and_a_lost_connection_is_made_again(server):
    kernel = Kernel()
    try:
        assert kernel.run("%load_ext pg_llm\nimport pg_llm").ok
        seen = kernel.run('box = pg_llm.prompt_box("It was")\nbox')
        assert seen.ok, seen.traceback
        assert {*seen.displays[0]} == {"text/plain", "text/html", saving.VIEW}
        assert kernel.run("%sql SELECT pg_backend_pid()").ok
        assert kernel.run(
            "other = pg_llm.connect(pg_llm.sql('SELECT current_database() AS d').d[0])\n"
            "pid = int(pg_llm.sql('SELECT pg_backend_pid() AS p').p[0])\n"
            "other.execute('SELECT pg_terminate_backend(%s)', (pid,)).fetchall()"
        ).ok
        shown = kernel.run("box.temperature = 0.5\nprint(box.error)")
        assert shown.ok and "connection" in shown.printed, shown.printed + shown.traceback
        shown = kernel.run("box.refresh()\nprint(box.error == '', box.view['n'])")
        assert shown.printed.startswith("True"), shown.printed
        streaming = kernel.run(
            "from pg_llm import PGLLMClient\nstream = PGLLMClient().stream('It was', 5)\nnext(stream)\n"
            "box.temperature = 0.7\nprint(box.error)\nstream.close()\nbox.refresh()\nprint(repr(box.error))"
        )
        assert "stream" in streaming.printed and streaming.printed.endswith("''\n")
    finally:
        kernel.close()


# -- the logit lens ----


def test_the_lens_reads_what_the_model_says(conn):
    conn.execute("SET pg_llm.display_limit = 10")  # as in a notebook, where large tensors are shown in short
    lens = pg_llm.logit_lens(STORY, conn=conn)
    assert lens.view["nodes"] == ["embd", "h.0", "h.1", "h.2", "h.3"]
    last = lens.view["cells"]["h.3"]
    expected = conn.execute("SELECT token_id, probability FROM llm_next_tokens(%s, 5, 'classroom')", [STORY])
    for (token_id, probability), best in zip(expected.fetchall(), last[-1], strict=True):
        assert best["id"] == token_id and best["probability"] == pytest.approx(probability, abs=2e-6)
    # Each node is read as if it were the last one.
    ids = conn.execute("SELECT llm_encode(%s, 'classroom')", [STORY]).fetchone()[0]
    (row,) = conn.execute(
        "SELECT tensor_max(softmax(llm_eval('classroom', 'logits', '{}', ARRAY['h.3'], ARRAY[llm_eval("
        "'classroom', 'h.1', jsonb_build_object('tokens', ARRAY[%s::int[]]))])), 2)::real[]", [ids],
    ).fetchone()  # fmt: skip
    shown = [cell[0]["probability"] for cell in lens.view["cells"]["h.1"]]
    assert shown == pytest.approx(row[0], abs=2e-6)


def test_the_map_reads_vectors_that_a_notebook_shows_in_short(conn):
    conn.execute("SET pg_llm.display_limit = 10")
    assert len(pg_llm.embedding_map("classroom", conn=conn).view["points"]) > 200
    query = (
        "SELECT name, slice(reshape(data, ARRAY[-1]), 0, 128) FROM llm_param WHERE name LIKE 'h.%.ln_1.bias'"
    )
    assert len(pg_llm.embedding_map(query=query, conn=conn).view["points"]) >= 4


def test_the_lens_says_in_words_which_cell_is_chosen(conn):
    lens = pg_llm.logit_lens(STORY, node="embd", position=1, conn=conn)
    assert "position 1: after embd" in lens.describe() and "The best after embd:" in lens.describe()
    lens.node, lens.position = "no such node", 999
    assert "The best after h.3:" in lens.describe()
    assert "<svg" in lens.draw()
    with pytest.raises(KitError, match="shorten"):
        pg_llm.logit_lens("It was spring. " * 20, conn=conn)
    with pytest.raises(KitError, match="at least one token"):
        pg_llm.logit_lens("", conn=conn)
