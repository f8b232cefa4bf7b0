"""Every exercise of the course: right answers pass, and wrong ones are told why."""

from __future__ import annotations

import re

import nbformat
import pytest
from helpers.paths import REPO

from pg_llm.course import answers, cells, editions
from pg_llm.course import check as checks
from pg_llm.course.exercise import exercises, notebooks, plan

EXERCISES = list(exercises().values())
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)


@pytest.fixture(scope="module")
def learner(server):
    """A notebook's session in a clean database."""
    from pg_llm.notebook import session

    opened = session.start(None, fresh=True)
    yield opened.conn
    opened.conn.close()


def verdict(exercise, answer):
    return checks.judged(exercise, False, answer, {})


@pytest.mark.slow
@each
def test_right_answers_pass(learner, exercise):
    assert len(exercise.right) >= 3, "three right answers beside the solution"
    distinct = {"".join(checks.code_of(exercise.language, a)) for a in [exercise.solution, *exercise.right]}
    assert len(distinct) == len(exercise.right) + 1, "they are written differently"
    for answer in [exercise.solution, *exercise.right]:
        assert verdict(exercise, answer).is_right, f"{answer}\n{verdict(exercise, answer).message}"


@pytest.mark.slow
@each
def test_wrong_answers_are_refused_with_their_own_message(learner, exercise, monkeypatch):
    assert len(exercise.wrong) >= 3, "three plausible mistakes"
    found, mistakes = {}, checks.mistakes

    def once(exercise, variant, conn, known):
        """What the mistakes return on a variant, which is the same for every answer."""
        if id(variant) not in found:
            found[id(variant)] = mistakes(exercise, variant, conn, known)
        return found[id(variant)]

    monkeypatch.setattr(checks, "mistakes", once)
    for wrong in exercise.wrong:
        judged = verdict(exercise, wrong.answer)
        assert not judged.is_right and judged.score < 1, wrong.answer
        assert judged.message.endswith(wrong.message), f"{wrong.answer}\n{judged.message}"


@pytest.mark.slow
@each
def test_a_constant_is_refused(learner, exercise):
    """What is right for the data shown, written down as a constant, is wrong for the hidden data."""
    assert len(exercise.variants) >= 2, "a hidden variant"
    shown = answers.tried(exercise, exercise.solution, exercise.variants[0], learner, {})
    hidden = [answers.tried(exercise, exercise.solution, v, learner, {}) for v in exercise.variants[1:]]
    assert "rows" in shown, shown
    if not exercise.probe or exercise.defines:
        assert any(h != shown for h in hidden), "no hidden variant has another result"


@pytest.mark.slow
@each
def test_a_blank_cell_waits(learner, exercise):
    assert exercise.cell.strip()
    assert verdict(exercise, exercise.cell).score is None
    assert exercise.language == "python" or "-- your line here" in exercise.cell
    assert checks.code_of(exercise.language, exercise.cell) != checks.code_of(
        exercise.language, exercise.solution
    )


@pytest.mark.slow
@each
def test_a_fallback_does_what_the_solution_does(learner, exercise):
    """Where it alone reads what the kit computed for the notebook's text, it is right for nothing else."""
    if not exercise.fallback:
        assert not exercise.defines
        return

    def tried(answer):
        return [answers.tried(exercise, answer, variant, learner, {}) for variant in exercise.variants]

    keys = [{"solution": result} for result in tried(exercise.solution)]
    with checks.store.connection() as course:
        found = checks.store.verdict(course, exercise, tried(exercise.fallback), keys)
    computed = re.compile("llm_eval|llm_tensor_rt|llm_train_log|the notebook's own")
    reads = set(computed.findall(exercise.fallback)) - set(computed.findall(exercise.solution))
    assert found["right"] != bool(reads), found


@each
def test_a_fallback_is_none_of_the_answers(exercise):
    """Students of a class can read it, so it is not accepted as an answer either, under other names."""
    for answer in [exercise.solution, *exercise.right]:
        assert not checks.is_copy(exercise, answer), answer
    renamed = re.sub(r"\bm\b", "other", exercise.fallback).replace("$$", "$f$") + " -- mine"
    assert checks.is_copy(exercise, renamed) == bool(exercise.fallback)


@each
def test_the_card_is_complete(exercise):
    assert 1 <= exercise.difficulty <= 5 and 1 <= exercise.importance <= 5
    assert 5 <= exercise.minutes <= 45 and len(exercise.hints) == 2 and exercise.praise
    assert exercise.solution.strip() not in exercise.task


@each
def test_no_hint_is_the_answer(exercise):
    """A hint's code is less than half of what the learner writes."""

    def bare(text: str) -> str:
        return "".join(text.split())

    given = {bare(line) for line in exercise.cell.splitlines()}
    written = "".join(b for b in map(bare, exercise.solution.splitlines()) if b not in given)
    for hint in exercise.hints:
        for code in re.findall(r"`([^`]+)`", hint):
            parts = [part for part in map(bare, code.split("…")) if part in written]
            assert max(map(len, parts), default=0) < len(written) / 2, code


@pytest.mark.parametrize("number", list(notebooks()))
def test_the_quiz_and_the_teachers_page_are_complete(number):
    file = notebooks()[number]
    assert len(file["quiz"]) == 5
    for question in file["quiz"]:
        assert len(question["options"]) >= 3 and 0 <= question["answer"] < len(question["options"])
        assert question["explanation"].strip()
    assert len({q["answer"] for q in file["quiz"]}) > 1, "the right option is not always the same"
    teacher = file["teacher"]
    assert set(teacher) == {"plan", "misconceptions", "question", "board"}
    assert len(teacher["misconceptions"]) >= 3
    for each in teacher["misconceptions"]:
        assert set(each) == {"think", "fact"} and each["think"].strip() and each["fact"].strip(), each
    assert cells.quiz(file["quiz"]).count("<summary>Answer</summary>") == 5


@pytest.mark.parametrize("number", list(notebooks()))
def test_the_plan_has_every_exercise_once_and_fits_into_a_lesson(number):
    parts = plan(number)
    asked = [each.id for part in parts for each in part.exercises]
    assert asked == [each.id for each in EXERCISES if each.id.startswith(f"{number}.")]
    assert all(part.reading >= 0 and part.minutes > 0 for part in parts)
    assert any(part.skip for part in parts), "what to leave out"
    page = editions.teachers_page(number)
    times = [int(end) for end in re.findall(r"^\| \d+–(\d+) \|", page, re.MULTILINE)]
    assert times == sorted(times) and times[-1] <= editions.LESSON
    saved = [int(minutes) for minutes in re.findall(r"\| saves (\d+):", page)]
    assert saved == [part.minutes for part in parts if part.skip]


@pytest.mark.parametrize("number", list(notebooks()))
def test_a_notebook_states_the_minutes_of_its_plan(number):
    parts = plan(number)
    path = REPO / "notebooks" / f"{notebooks()[number]['notebook']['file']}.ipynb"
    opening = nbformat.read(path, 4).cells[0].source
    total = sum(part.minutes for part in parts)
    assert re.search(rf"Allow\W* {total} minutes", opening), opening
    assert f"**Time.** {total} minutes:" in editions.teachers_page(number)
    stated = re.search(r"of which (\d+) are exercises", opening)
    assert not stated or int(stated[1]) == total - sum(part.reading for part in parts)
