"""Drawings of what goes on inside a model say their numbers."""

import pytest

from pg_llm.drawings import inside


def test_the_circuit_says_its_heads_and_weights():
    d = inside.circuit(" ivy", " snow", previous=("1.2", 0.89), induction=("2.3", 0.86), probability=0.99)
    for said in ("head 1.2", "weight 0.89", "head 2.3", "weight 0.86", "probability 0.99", "“after ivy”"):
        assert said in d.description
    assert d.svg().count("<polygon") == 4  # arrows


def test_a_patch_is_a_cell_of_both_runs():
    d = inside.patching([" Emma", " Price"], [" Emma", " Stone"], ["embd", "h.0"], "h.0", 1)
    assert "h.0 at position 1, “ Stone”" in d.description
    assert d.svg().count("<rect") == 1 + 2 * 4


@pytest.mark.parametrize(
    ("value", "said"), [(0.9, "h.0 at position 1 (“b”) 0.90"), (0.01, "The largest is 0.01")]
)
def test_a_heat_map_says_what_stands_out(value, said):
    d = inside.grid({"embd": [0, 0], "h.0": [0, value]}, ["a", "b"], "Where?", "probability")
    assert said in d.description


def test_the_lens_says_each_layer():
    d = inside.lens([("embd", " Emma", 1.0), ("h.0", " Price", 0.6)], " Emma")
    assert "after embd “ Emma” 1.00; after h.0 “ Price” 0.60" in d.description


def test_coloured_text_is_orange_above_zero_and_blue_below():
    d = inside.surprise({"a model": [(" ivy", 6.4), (" snow", -2.0), (" owl", 0.0)]}, "Surprise")
    assert "“ivy” +6.4, “snow” -2.0" in d.description and "owl" not in d.description
    assert inside.shade(-0.8) in d.svg()
