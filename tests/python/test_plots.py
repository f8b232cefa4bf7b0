"""The plots of a run: their contents, and their errors."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

import pg_llm
from pg_llm.plots.tape_plot import Layered

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch

COLUMNS = ["op", "name", "inputs", "shape"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def block(conn) -> pd.DataFrame:
    """The rows of a GPT's first block in llm_graph."""
    conn.execute("SELECT llm_create_model('plots', 2, 4, 64, 128, 300)")
    query = (
        "SELECT op, name, inputs, shape FROM llm_graph WHERE model = 'plots' AND name LIKE 'h.0%' "
        "AND op <> 'param' ORDER BY id"
    )
    return pg_llm.sql(query, conn=conn)


def texts(ax) -> list[str]:
    return [t.get_text() for t in ax.texts]


def test_every_node_stands_below_what_it_reads_and_apart_from_its_neighbours(block):
    graph = Layered(block)
    x = graph.places()
    for name, inputs in zip(block.name, block.inputs, strict=True):
        assert all(graph.depth[i] < graph.depth[name] for i in inputs)
    for path in graph.paths:
        assert [graph.depth[n] for n in path] == list(range(graph.depth[path[0]], graph.depth[path[-1]] + 1))
    for a in graph.label:
        for b in graph.label:
            if a < b and graph.depth[a] == graph.depth[b]:
                assert abs(x[a] - x[b]) > 0.99, (a, b)
    # the residual stream: from the block's input to its first addition, around everything between
    assert any(
        path[0] == "drop" and path[-1] == "h.0.attn.residual" and len(path) > 3 for path in graph.paths
    )


def test_the_tape_has_a_box_for_each_operation_and_input(block):
    pg_llm.plot_tape(block, "one block")
    seen = texts(plt.gca())
    assert plt.gca().get_title("left") == "one block"
    assert any("layernorm" in t and "h.0.ln_1" in t for t in seen) and "h.0.ln_1.weight" in seen
    assert len(seen) == len(set(block.name) | {i for inputs in block.inputs for i in inputs})


def test_a_name_made_twice_is_two_boxes():
    rows = [("mul", "y", ["x", "x"], []), ("add", "y", ["y", "b"], []), ("neg", None, ["y"], [2])]
    graph = Layered(pd.DataFrame(rows, columns=COLUMNS))
    assert len(graph.made) == 3 and graph.depth["y"] == 1 and max(graph.depth.values()) == 3


@pytest.mark.slow
def test_every_plot_returns_its_axes(block):
    points = pd.DataFrame({"label": ["a", "b"], "x": [0.0, 1.0], "y": [1.0, 2.0]})
    drawn = [
        pg_llm.plot_tape(block),
        pg_llm.plot_tensor(np.eye(3)),
        pg_llm.plot_images(np.eye(3)),
        pg_llm.plot_points(points),
        pg_llm.plot_next_tokens(pd.DataFrame({"token": ["a"], "probability": [0.5]})),
        pg_llm.plot_bigrams(pd.DataFrame({"before": ["a"], "after": ["b"], "n": [1]})),
        pg_llm.plot_losses(pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]})),
        pg_llm.plot_loss(pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]})),
        pg_llm.plot_paths(points, lambda x, y: x * y),
        pg_llm.plot_attention(heads(1, 1, 3)),
        pg_llm.plot_decision(np.eye(2), [0, 1], points[["x", "y"]].assign(wanted=[0, 1])),
    ]
    assert [ax.figure.number for ax in drawn] == plt.get_fignums()
    given = plt.figure().subplots()
    assert pg_llm.plot_tensor(np.eye(3), ax=given) is given


def test_attention_of_several_heads_returns_an_axes_for_each():
    maps = pg_llm.plot_attention(heads(2, 3, 4))
    assert isinstance(maps, tuple)
    assert [ax.get_title("left") for ax in maps] == [f"layer {i}, head {k}" for i in (0, 1) for k in range(3)]
    labels = [(ax.get_ylabel(), ax.get_xlabel()) for ax in maps]  # four maps, and two below them
    assert labels == [("query", ""), ("", ""), ("", "key"), ("", "key"), ("query", "key"), ("", "key")]


def arrows(ax) -> list:
    return [p for p in ax.patches if isinstance(p, FancyArrowPatch)]


def ends_of(arrow) -> tuple:
    """The uppermost and the lowest point of an arrow that points down."""
    path = arrow.get_path()
    points = path.vertices[path.codes != path.CLOSEPOLY]
    return points[points[:, 1].argmin()], points[points[:, 1].argmax()]


def test_the_tape_has_an_arrow_for_every_use_of_a_value(block):
    rows = [("sub", "miss", ["y", "constant 2"], []), ("mul", "loss", ["miss", "miss"], [])]
    names = {"constant 2": "the input x", "no such box": "?"}
    named = pg_llm.plot_tape(pd.DataFrame(rows, columns=COLUMNS), names=names)
    assert {"the input x"} <= {text.get_text() for text in named.texts}
    ax = pg_llm.plot_tape(pd.DataFrame(rows, columns=COLUMNS), "miss * miss", {"constant 2": "x"})
    assert len(arrows(ax)) == 4
    ends = [tuple(ends_of(p)[1].round(6)) for p in arrows(ax)]
    assert len(set(ends)) == 4, "arrow heads keep apart"
    assert "a constant\nx" in texts(ax), "the number of a constant is not its value"
    assert len(arrows(pg_llm.plot_tape(block))) == sum(map(len, block.inputs))


def test_arrows_of_the_tape_go_from_box_to_box(block):
    ax = pg_llm.plot_tape(block)
    inside = ax.transData.inverted()
    boxes = [t.get_bbox_patch().get_window_extent().transformed(inside) for t in ax.texts]
    for arrow in arrows(ax):
        for x, y in ends_of(arrow):
            assert any(b.x0 < x < b.x1 and min(abs(y - b.y0), abs(y - b.y1)) < 0.05 for b in boxes)


def test_a_tape_without_rows_or_with_too_many_says_so():
    empty = pd.DataFrame(columns=COLUMNS)
    with pytest.raises(ValueError, match="no rows"):
        pg_llm.plot_tape(empty)
    chain = [("neg", f"n{i}", [f"n{i - 1}"], []) for i in range(1, 80)]
    with pytest.raises(ValueError, match="choose a part"):
        pg_llm.plot_tape(pd.DataFrame(chain, columns=COLUMNS))


def heads(layers: int, heads: int, T: int) -> pd.DataFrame:
    rows = [
        (layer, head, q, f"t{q}", k, f"t{k}", 1 / (q + 1))
        for layer in range(layers)
        for head in range(heads)
        for q in range(T)
        for k in range(q + 1)
    ]
    names = ["layer", "head", "query", "query_token", "key", "key_token", "weight"]
    return pd.DataFrame(rows, columns=names)


def test_attention_is_a_map_for_each_head():
    pg_llm.plot_attention(heads(1, 1, 5), "one head")
    ax = plt.gca()
    matrix = ax.images[0].get_array().filled(np.nan)
    assert matrix.shape == (5, 5) and matrix[4, 0] == np.float64(0.2) and np.isnan(matrix[0, 4])
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"'t{i}'" for i in range(5)]
    pg_llm.plot_attention(heads(2, 3, 4))
    assert sum(bool(ax.images) for ax in plt.gcf().axes) == 6
    with pytest.raises(ValueError, match="6 heads"):
        pg_llm.plot_attention(heads(2, 3, 4), ax=ax)
    with pytest.raises(ValueError, match="llm_trace"):
        pg_llm.plot_attention(heads(0, 0, 0))


def test_gradients_are_lines_over_the_layers():
    names = [
        f"h.{i}.{part}"
        for i in (0, 1, 10, 2)
        for part in ("attn.c_attn.weight", "mlp.c_fc.weight", "ln_1.bias")
    ]
    names += ["wte.weight", "ln_f.weight"]
    frame = pd.DataFrame({"name": names, "norm": np.arange(1.0, len(names) + 1)})
    pg_llm.plot_gradients(frame, title="norms")
    ax = plt.gca()
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["embedding", "0", "1", "2", "10", "head"]
    line = next(line for line in ax.lines if line.get_label() == "attn.c_attn")
    assert list(line.get_xdata()) == [1, 2, 3, 4] and list(line.get_ydata()) == [1, 4, 10, 7]
    assert texts(ax) == ["wte.weight", "ln_f.weight"]
    low, high = ax.get_ylim()
    assert [f"{t:g}" for t in ax.get_yticks() if low <= t <= high] == ["1", "2", "5", "10"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["mlp.c_fc", "attn.c_attn"], (
        "as the lines end"
    )
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines[:2]}
    assert all(len(set(each)) == 2 for each in zip(*styles, strict=True))


def test_the_loss_stands_above_its_floor():
    log = pd.DataFrame({"step": range(1, 101), "loss": np.linspace(6, 1, 100)})
    floor = pd.DataFrame({"nats_per_token": [0.8], "standard_error": [0.01], "bits_per_character": [0.25]})
    pg_llm.plot_loss(log, floor, "training")
    assert (
        texts(plt.gca()) == ["floor 0.800"] and plt.gca().child_axes[0].get_ylabel() == "bits per character"
    )
    pg_llm.plot_loss(log, 0.8)
    assert texts(plt.gca()) == ["floor 0.800"] and not plt.gca().child_axes
    pg_llm.plot_loss(log)
    assert not texts(plt.gca())


def test_paths_are_drawn_over_lines_of_equal_height():
    frame = pd.DataFrame({"method": ["b"] * 3 + ["a"] * 3, "x": [8, 7, 6] * 2, "y": [1, -1, 0.5] * 2})
    ax = pg_llm.plot_paths(frame, lambda x, y: x**2 + 100 * y**2, "a valley", minimum=(7, 0))
    assert [line.get_label() for line in ax.lines] == ["b", "a", "minimum"] and ax.collections
    assert ax.get_aspect() == 1, "a step across is as long in the picture as a step along"
    assert ax.lines[-1].get_xydata().tolist() == [[7, 0]]
    assert len({line.get_linestyle() for line in ax.lines[:2]}) == 2


def test_the_map_of_answers_is_centred_at_the_decision():
    ticks = np.linspace(-0.5, 1.5, 21)
    points = pd.DataFrame({"x1": [0, 0, 1, 1], "x2": [0, 1, 0, 1], "wanted": [0, 1, 1, 0]})
    ax = pg_llm.plot_decision(np.add.outer(ticks, ticks) / 2, ticks, points, title="a map")
    mesh, dots = ax.collections[0], ax.collections[-1]
    assert np.mean(mesh.get_clim()) == 0.5 and mesh.get_clim() == dots.get_clim()
    assert dots.get_offsets().tolist() == points[["x1", "x2"]].to_numpy().tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x1", "x2")
    assert {"wanted 0", "wanted 1", "0.5"} <= set(texts(ax))
    flat = pg_llm.plot_decision(np.zeros((21, 21)), ticks, points)
    assert "0.5" not in texts(flat), "no line where the answers do not cross it"


def boxes(ax) -> list:
    """Where the visible texts inside the axes are, in pixels."""
    ax.figure.canvas.draw()
    return [t.get_window_extent() for t in ax.texts if t.get_text()]


def test_the_ticks_of_next_tokens_are_what_they_say_and_the_bars_have_equal_decimals():
    tokens = ["\\n", "\n", " 's", "a$b$"]
    frame = pd.DataFrame({"token": tokens, "probability": [0.15, 0.049, 0.0493, 0.00001]})
    ax = pg_llm.plot_next_tokens(frame)
    ax.figure.canvas.draw()
    ticks = [(t.get_position()[0], t.get_text()) for t in ax.get_xticklabels()]
    assert len(ticks) > 3
    for at, text in ticks:
        assert float(text.strip("%")) == pytest.approx(100 * at)
    assert texts(ax) == ["15.0%", "4.9%", "4.9%", "<0.1%"]
    assert [t.get_text() for t in ax.get_yticklabels()] == [r"'\n'", r"'\n'", '" \'s"', r"'a\$b\$'"]
    frame = pd.DataFrame({"token": ["a", "b"], "probability": [0.0493, 0.049]})
    assert texts(pg_llm.plot_next_tokens(frame)) == ["4.93%", "4.90%"]
    frame = pd.DataFrame({"token": ["a", "b"], "probability": [0.000021, 0.000020]})
    assert texts(pg_llm.plot_next_tokens(frame)) == ["0.00210%", "0.00200%"]
    assert not texts(pg_llm.plot_next_tokens(frame[:0]))


def test_a_line_feed_in_a_table_of_pairs_is_written_as_one():
    ax = pg_llm.plot_bigrams(pd.DataFrame({"before": ["\\n", "a"], "after": ["a", "\\n"], "n": [1, 2]}))
    assert [t.get_text() for t in ax.get_yticklabels()] == [r"'\n'", "'a'"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("the token before", "the token after")


def test_labels_of_points_cover_no_label_and_no_point():
    place = np.random.default_rng(1).normal(size=(30, 2))
    place[:8] = place[0] + 0.02 * np.arange(16).reshape(8, 2)
    frame = pd.DataFrame({"word": [f"word {i}" for i in range(30)], "x": place[:, 0], "y": place[:, 1]})
    ax = pg_llm.plot_points(frame)
    seen = boxes(ax)
    assert len(seen) == 30 and (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    for k, box in enumerate(seen):
        assert not box.count_overlaps(seen[:k]), frame.word[k]
        assert ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1
    points = ax.transData.transform(place)
    assert not [1 for box in seen for x, y in points if box.contains(x, y)]
    assert pg_llm.plot_points(frame[:0]).get_title("left") == ""


def test_losses_are_curves_with_a_name_and_lines_whose_names_do_not_collide():
    losses = {"at 100 steps": [2.4, 1.3, 1.2, 1.3], "at 400": [2.6, 1.2, 1.3, 1.4]}
    frame = pd.DataFrame({"dimensions": [1, 2, 4, 32], **losses})
    ax = pg_llm.plot_losses(frame, {"uniform": 3.89, "table": 1.33, "floor": 1.32})
    assert ax.get_xlabel() == "dimensions" and ax.get_ylabel() == "loss (nats per token)"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["at 100 steps", "at 400"]
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "4", "32"]
    seen = boxes(ax)
    assert texts(ax) == ["floor 1.32", "table 1.33", "uniform 3.89"]
    assert not any(box.count_overlaps(seen[:k]) for k, box in enumerate(seen))
    assert all(box.x0 > ax.bbox.x1 for box in seen)
    ax = pg_llm.plot_losses(pd.DataFrame({"step": range(20, 220, 20), "train": 1.0}))
    assert ax.get_xscale() == "linear" and [t.get_text() for t in ax.get_xticklabels()][-1] == "200"
    ax = pg_llm.plot_losses(pd.DataFrame({"step": range(1, 101), "train": 1.0}))
    assert ax.get_xscale() == "linear" and ax.get_legend() is None and ax.lines[0].get_marker() == "None"
