"""The drawings of notebook 12 say in words what they show, and show what was computed."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from pg_llm.drawings import training


def texts(drawing) -> list[str]:
    return [e.text or "" for e in ET.fromstring(drawing.svg()).iter("{http://www.w3.org/2000/svg}text")]


def test_a_batch_is_drawn_with_targets_one_further():
    d = training.batch([["∎", "j", "o"], ["∎", "a"]], [["j", "o", "∎"], ["a", "∎"]])
    assert "∎ j o predicts j o ∎; ∎ a predicts a ∎" in d.description
    assert texts(d).count("j") == 2


def test_the_loop_names_its_statements_and_tables():
    found = " ".join(texts(training.loop()))
    for name in (
        "llm_dataset",
        "llm_trace",
        "llm_backprop",
        "llm_accumulate_grads",
        "UPDATE",
        "llm_train_log",
    ):
        assert name in found


def test_a_schedule_has_the_rates_of_its_rows():
    d = training.schedule([1, 2, 3, 4], [0.1, 0.2, 0.15, 0.05], warmup=2)
    assert "climbs in a straight line to 0.2 at step 2" in d.description and "0.05" in d.description
    assert {"0.2", "0.1", "4"} <= set(texts(d))


def test_the_probability_of_a_name_is_the_product_of_its_letters():
    d = training.letters([("al", [("a", 0.5), ("l", 0.25), ("∎", 0.001)]), ("x", [("x", 1e-9), ("∎", 1e-9)])])
    assert {"= one in 8,000", "= one in 1.0 × 10¹⁸"} <= set(texts(d))
    assert "a 50 %, l 25 %, ∎ 0.1 %" in d.description


def test_a_cancelled_transaction_keeps_whole_commits():
    d = training.commits(every=50, cancelled=170, steps=400)
    assert "Steps 151 to 170 roll back" in d.description and "150 steps are kept" in d.description
    assert {"sees 50 steps", "sees 250 steps", "the same call goes on at 151"} <= set(texts(d))
