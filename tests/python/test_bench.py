"""pg-llm bench: its report, its chart, and that every measurement works; times are not asserted."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.paths import REPO

from pg_llm.bench import chart, command, peers
from pg_llm.bench.kit import Kit
from pg_llm.bench.peers import Shape
from pg_llm.bench.report import OURS, line, number, rates, row
from pg_llm.bench.timing import Figure, in_turn, summary, values_in_turn

TINY = Shape(2, 2, 64, 256, 50257)


def test_a_row_says_how_many_times_faster():
    fast = rates(
        "prefill", "tokens/s", 512, {OURS: Figure(0.25, 0.01), "OpenVINO": Figure(0.5)}, bound=4096.0
    )
    assert fast.ours == 2048 and fast.ratios == {"OpenVINO": 2} and fast.of_bound == 0.5
    short_figures = {OURS: Figure(10.0), "PyTorch": Figure(45.0)}
    short = row("step", "ms", short_figures, smaller_is_better=True)
    assert short.ratios == {"PyTorch": 4.5} and short.of_bound is None
    assert row("step", "ms", short_figures, bound=5.0, smaller_is_better=True).of_bound == 0.5
    assert "OpenVINO 1024 (x2.00)" in line(fast) and "50% of" in line(fast)
    found = json.loads(json.dumps(fast.as_json()))
    assert found["ratios"] == {"OpenVINO": 2.0} and found["of_bound"] == 0.5 and "target" not in found
    assert [number(x) for x in (1398.2, 0.0123, 21.04, 123456.0)] == ["1398", "0.0123", "21", "123456"]


def test_medians_and_spread():
    assert summary([3.0, 1.0, 2.0, 5.0, 4.0]) == Figure(3.0, 1 / 3)
    assert summary([7.0]) == Figure(7.0, 0.0)
    calls = []
    found = values_in_turn(2, {"a": lambda: calls.append("a") or 1.0, "b": lambda: calls.append("b") or 2.0})
    assert calls == ["a", "b"] * 3 and found["b"].value == 2.0  # once as a warm-up, then in turn
    assert in_turn(1, {"a": lambda: None})["a"].value >= 0


def test_measurements_are_chosen_by_name_or_pattern():
    known = command.measurements()
    assert command.chosen((), known) == list(known)
    assert command.chosen(("matmul*", "decode"), known) == ["matmul", "matmul-backward", "decode"]
    run = CliRunner().invoke(command.main, ["--only", "sorting"])
    assert run.exit_code == 2 and "nothing matches sorting: choose from peak, matmul" in run.output
    assert CliRunner().invoke(command.main, ["--list", "--only", "train*"]).output.split() == [
        "training", "training-small", "training-images",
    ]  # fmt: skip


def report() -> dict:
    growth = [(f"growth with layers, {n}", 4.0 * n) for n in (1, 2, 4)]
    rows = [row("decode", "tokens/s", {OURS: Figure(80.0), "llama.cpp f32": Figure(64.0)}, bound=85.0)]
    rows += [row(name, "ms", {OURS: Figure(value)}, smaller_is_better=True) for name, value in growth]
    rows += [row("a < b & c", "s", {OURS: Figure(1.0), "PyTorch": Figure(2.0)}, smaller_is_better=True)]
    head = {"date": "2026-01-02", "cpu": "CPU", "threads": 2}
    return head | {"rows": [r.as_json() for r in rows]}


def test_a_saved_file_is_json_with_a_row_a_line_and_a_picture(tmp_path):
    saved = tmp_path / "results.json"
    saved.write_text(command.as_text(report()), "utf-8")
    assert json.loads(saved.read_text("utf-8")) == report()
    assert sum('"name": "' in text for text in saved.read_text("utf-8").splitlines()) == 5
    picture = chart.draw_file(saved)
    assert picture == tmp_path / "results.svg"
    drawn = picture.read_text("utf-8")
    assert "a &lt; b &amp; c" in drawn and "80 tokens/s" in drawn and "ms with layers" in drawn
    assert drawn.count('fill="#3f8f4f"') == 2  # PyTorch: in the legend and in its row
    run = CliRunner().invoke(command.main, ["--draw", str(saved)])
    assert run.exit_code == 0 and picture.read_text("utf-8") == drawn


def test_the_repositorys_picture_is_that_of_its_figures():
    saved = REPO / "pg_llm" / "bench" / "results.json"
    assert saved.with_suffix(".svg").read_text("utf-8") == chart.draw(json.loads(saved.read_text("utf-8")))


@pytest.fixture(scope="module")
def kit(server):
    with Kit(quick=True) as kit:
        kit.shape, kit.repeats, kit.long = TINY, 1, 0.2
        yield kit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "openvino", "llama"])
def test_peers_compute_our_logits_and_our_greedy_text(kit, name):
    found = list(kit.peers(name))
    if not found:
        pytest.skip(f"{name} is not installed")
    (peer,) = found
    tokens = [17 * i % 50257 for i in range(20)]
    ours = np.asarray(kit.one("SELECT llm_logits(%s::int[], %s)", (tokens, kit.model)))[-1]
    peers.agree(ours, peer, tokens, 0.01)
    np.testing.assert_allclose(peer.prefill(tokens, True), peer.prefill(tokens, False), atol=1e-4)
    if hasattr(peer, "decode"):
        assert peer.decode(tokens, 3)[0] == ours.argmax()
    with pytest.raises(AssertionError, match="computes other logits"):
        peers.agree(-ours, peer, tokens, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_llama_runs_smaller_weights(kit, kind):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from pg_llm.bench.peers.llama import Llama

    tokens = [1, 2, 3]
    ours = np.asarray(kit.one("SELECT llm_logits(%s::int[], %s)", (tokens, kit.model)))[-1]
    peers.agree(ours, Llama(kit.shape, kit.weights, 1, kit.folder, kind), tokens, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in command.measurements() if n not in ("tokenizer", "peak")])
def test_every_measurement_runs(kit, name):
    rows = list(command.measurements()[name](kit))
    assert rows and all(r.ours > 0 and r.name and line(r) and r.as_json() for r in rows)
    assert len({r.name for r in rows}) == len(rows)


@pytest.mark.slow
def test_the_report_names_machine_and_peers(server):
    run = CliRunner().invoke(command.main, ["--only", "peak", "--json", "--quick", "--no-peers"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["threads"] >= 1 and found["cpu"] and found["peers"] == {} and found["quick"] is True
    assert [r["unit"] for r in found["rows"]] == ["GFLOP/s", "GB/s"]
