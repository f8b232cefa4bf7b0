"""The drawings of notebook 18."""

from __future__ import annotations

import pandas as pd
import pytest

from pg_llm.drawings import architectures


def mask(*reaches: int, longest: int = 8) -> pd.DataFrame:
    rows = [
        (layer, query, key)
        for layer, reach in enumerate(reaches)
        for query in range(longest)
        for key in range(max(0, query - reach + 1), query + 1)
    ]
    return pd.DataFrame(rows, columns=["layer", "query", "key"])


def test_each_layer_reaches_further_back():
    drawing = architectures.windows(mask(2, 3), 7)
    assert "layer 1 reads 3 at 5 to 7; layer 0 reads 4 at 4 to 7" in drawing.description
    assert drawing.svg().count('stroke-width="1"') == 3 + 3 * 2, "a line for each pair"


def test_the_beginning_of_a_text_has_fewer_keys():
    assert (
        "layer 1 reads 2 at 0 to 1; layer 0 reads 2 at 0 to 1"
        in architectures.windows(mask(4, 4), 1).description
    )


def test_a_position_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="layer 1 has no position 9"):
        architectures.windows(mask(2, 2), 9)


def test_both_blocks_are_drawn_and_told():
    drawing = architectures.sublayers()
    assert drawing.svg().count(">attention<") == drawing.svg().count(">MLP<") == 2
    assert "read the stream at the same place" in drawing.description
