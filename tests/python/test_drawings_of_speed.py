"""The drawings of notebooks 11 and 17 show what was computed; a roofline's labels keep apart."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import pg_llm
from pg_llm.drawings import optimizer, speed


def texts(drawing) -> str:
    found = ET.fromstring(drawing.svg()).iter("{http://www.w3.org/2000/svg}text")
    return "\n".join(e.text or "" for e in found)


@pytest.mark.parametrize(("clip", "factor"), [(1.0, "0.2"), (10.0, "= 1")])
def test_a_whole_step_clips_by_the_length_of_all_gradients(clip, factor):
    grads = {"w": np.array([[0, 3]], np.float32), "b": np.array([4], np.float32)}  # of norm 5 together
    d = optimizer.whole_step(grads, loss=2.5, lr=0.01, decay=0.1, clip=clip)
    assert f"min(1, {clip:g} / 5)" in texts(d) and factor in texts(d)
    assert "1 matrices" in texts(d) and "1 vectors" in texts(d) and "of norm 5 together" in d.description


def test_gradients_of_zero_are_not_clipped():
    d = optimizer.whole_step({"b": np.zeros(3, np.float32)}, loss=0.0, lr=0.1, decay=0, clip=1)
    assert "multiplies all of them by 1," in d.description


def test_a_batch_shares_the_weights_and_not_the_caches():
    rows = [(n, 300.0, 100.0 * n, 2.0 * n) for n in (1, 9)]
    d = speed.batch(pd.DataFrame(rows, columns=["sequences", "weights", "caches", "at_most"]))
    assert "1 texts: 25 % for caches, 2.0 tokens" in d.description
    assert "caches 25 %" in texts(d) and "caches 75 %" in texts(d)


def test_points_of_a_roofline_that_lie_together_share_a_label():
    frame = pd.DataFrame({
        "phase": ["prefill", "prefill", "decode"], "op": ["matmul"] * 3,
        "node": ["h.*.mlp.c_fc.matmul", "h.*.mlp.c_proj.matmul", "h.*.mlp.c_fc.matmul"],
        "flops": [2e6, 2e6, 1e4], "bytes": [1e5, 1e5, 2e4], "microseconds": [50.0, 51.0, 2.0],
        "gflops": [40.0, 39.2, 5.0], "of_peak": [0.5, 0.49, 0.0625], "of_bandwidth": [0.2, 0.196, 0.9],
    })  # fmt: skip
    pg_llm.plot_roofline(frame, "three points")
    labels = [text.get_text() for text in plt.gca().texts]
    plt.close("all")
    assert "mlp.c_fc\nmlp.c_proj" in labels and "mlp.c_fc" in labels
