"""The drawings of notebooks 01 and 02 say in words what they show, and show what was computed."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from pg_llm.drawings import tensors, tokens


def texts(drawing) -> list[str]:
    return [e.text or "" for e in ET.fromstring(drawing.svg()).iter("{http://www.w3.org/2000/svg}text")]


def test_broadcasting_shows_each_sum_and_its_shapes():
    d = tensors.broadcasting([[1, 2], [3, 4]], [10, [[100], [200]]])
    assert {"(2,2)", "()", "(2,1)", "11", "14", "101", "204"} <= set(texts(d))
    assert "[[101.0, 102.0], [203.0, 204.0]]" in d.description


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError):
        tensors.broadcasting([[1, 2], [3, 4]], [[1, 2, 3]])


def test_a_product_is_drawn_with_its_terms():
    d = tensors.matmul_as_join([[1, 2, 3], [4, 5, 6]], [[1, 0], [0, 1], [1, 1]], row=1, column=0)
    assert {"4 · 1 = 4", "5 · 0 = 0", "6 · 1 = 6"} <= set(texts(d))
    assert "4·1 + 5·0 + 6·1 = 10" in d.description


def test_two_layers_are_drawn_with_and_without_relu():
    assert texts(tensors.two_layers()).count("relu") == 1


def steps(*merges, letters: str) -> pd.DataFrame:
    rows = [(None, None, None, list(letters))] + [(rank, left, right, []) for rank, left, right in merges]
    return pd.DataFrame(rows, columns=["rank", "left_token", "right_token", "tokens"])


def test_a_merge_tree_has_every_token_and_rank():
    d = tokens.merge_tree(steps((3, "a", "b"), (7, "ab", "c"), letters="abcd"))
    assert {"a", "b", "c", "d", "ab", "abc", "3", "7"} <= set(texts(d))
    assert "What remains: abc, d." in d.description


def test_a_word_without_merges_is_its_bytes():
    assert "What remains: z, z." in tokens.merge_tree(steps(letters="zz")).description


def test_merges_of_another_word_are_refused():
    with pytest.raises(ValueError, match="no neighbours"):
        tokens.merge_tree(steps((3, "x", "y"), letters="abc"))
