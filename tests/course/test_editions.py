"""Editions and quizzes: the student's edition gives nothing away, the others lack nothing."""

from __future__ import annotations

import re
import shutil

import nbformat
import pytest
from click.testing import CliRunner
from helpers.paths import REPO

from pg_llm.cli import cli
from pg_llm.course import cells, check, editions, quizzes
from pg_llm.course.exercise import exercises, notebooks, plan
from pg_llm.errors import KitError

NUMBERS = list(notebooks())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("editions")
    assert len(editions.build(output, editions.EDITIONS)) == 3
    return output


def source(folder, edition, number):
    (path,) = (folder / edition).glob(f"{number}_*.ipynb")
    return nbformat.read(path, 4)


def test_the_editions_have_the_notebooks_that_the_files_name(folder):
    """Two notebooks of one number, as while a course is renumbered, do not take each other's place."""
    for edition in editions.EDITIONS:
        assert {p.stem for p in (folder / edition).glob("*.ipynb")} == {
            file["notebook"]["file"] for file in notebooks().values()
        }


@pytest.mark.parametrize("number", NUMBERS)
def test_the_students_edition_gives_nothing_away(folder, number):
    text = (next((folder / "student").glob(f"{number}_*.ipynb"))).read_text()
    cell_sources = "\n".join(c.source for c in source(folder, "student", number).cells)
    assert "<summary>Solution" not in cell_sources and "<summary>Answer" not in cell_sources
    for each in notebooks()[number]["exercise"]:
        exercise = exercises()[each["id"]]
        bare = "".join(check.code_of(exercise.language, exercise.solution))
        shown = "".join("".join(check.code_of(exercise.language, c.source)) for c in
                        source(folder, "student", number).cells if c.cell_type == "code")  # fmt: skip
        assert bare not in shown, exercise.id
        for answer in [exercise.solution, *exercise.right]:
            assert answer.strip() not in cell_sources, exercise.id
    for question in notebooks()[number]["quiz"]:
        assert (
            question["explanation"].strip() not in cell_sources
            and question["question"].strip() in cell_sources
        )
    assert "hints" in text  # hints stay


@pytest.mark.parametrize("number", NUMBERS)
def test_the_self_study_edition_is_the_repositorys(folder, number):
    saved = nbformat.read(REPO / "notebooks" / f"{notebooks()[number]['notebook']['file']}.ipynb", 4)
    assert source(folder, "self-study", number) == saved


@pytest.mark.parametrize("number", NUMBERS)
def test_the_teachers_edition_says_everything(folder, number):
    text = "\n".join(c.source for c in source(folder, "teacher", number).cells)
    for each in notebooks()[number]["exercise"]:
        exercise = exercises()[each["id"]]
        for answer in [exercise.solution, *exercise.right, *(w.answer for w in exercise.wrong)]:
            assert answer.strip() in text
        assert all(w.message in text for w in exercise.wrong)
    teacher = notebooks()[number]["teacher"]
    assert teacher["question"] in text and teacher["board"] in text
    for each in teacher["misconceptions"]:
        assert f"*They think:* {each['think']} *In fact:* {each['fact']}" in text
    assert all(f"| {part.name}" in text and part.skip in text for part in plan(number))
    assert all(f"| {each['id']} | {each['title']} |" in text for each in notebooks()[number]["exercise"])
    seen = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)  # on the screen in class
    for each in notebooks()[number]["exercise"]:
        assert exercises()[each["id"]].solution.strip() not in seen
    assert all(q["explanation"].strip() not in seen for q in notebooks()[number]["quiz"])


@pytest.mark.parametrize("heading", ["## Quiz", "### Exercise 01.1"])
def test_a_heading_inside_another_cell_is_an_error(heading):
    """It would be neither filled in nor missed."""
    cell = nbformat.v4.new_markdown_cell(f"## What you know now\n\n{heading}")
    with pytest.raises(KitError, match="begins a cell of its own"):
        cells.fill(nbformat.v4.new_notebook(cells=[cell]), "01")


def test_the_students_readme_has_a_first_step(folder):
    pages = {edition: (folder / edition / "README.md").read_text() for edition in editions.EDITIONS}
    assert all(pages[edition].startswith(f"# pg_llm\n\n{editions.ABOUT[edition]}\n") for edition in pages)
    for named in ("PG_LLM_DSN=", ".pgpass", "%load_ext pg_llm", "%pg_llm status", "%pg_llm progress"):
        assert named in pages["student"] and named not in pages["self-study"]
    (notebook,) = re.findall(r"jupyter lab (\S+)", pages["student"])
    assert (folder / "student" / notebook).exists()


def test_ids_are_unique(folder):
    for path in folder.rglob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert len({c.id for c in notebook.cells}) == len(notebook.cells), path


def test_a_folder_with_contents_is_kept_unless_forced(tmp_path):
    target = tmp_path / "student"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(KitError, match="exists and is not empty; --force replaces it"):
        editions.build(tmp_path, ["student"])
    assert (target / "mine.txt").read_text() == "mine" and list(tmp_path.iterdir()) == [target]
    editions.build(tmp_path, ["student"], [NUMBERS[0]], force=True)
    assert sorted(p.suffix for p in target.iterdir()) == [".ipynb", ".md"]


def test_unknown_names_are_errors(tmp_path, monkeypatch):
    with pytest.raises(KitError, match="there is no notebook 99"):
        editions.build(tmp_path / "x", ["student"], ["99"])
    for name in ("99", "044", "04_attention", ""):
        with pytest.raises(KitError, match=f"there is no notebook {name}; there are 00, 01"):
            quizzes.write(tmp_path / "x", "gift", [name])
    with monkeypatch.context() as patch, pytest.raises(KitError, match="no notebooks with exercises"):
        patch.setattr(editions, "notebooks", dict)  # a student's installation, without the answers
        editions.build(tmp_path / "x", ["student"])
    assert list(tmp_path.iterdir()) == []
    done = CliRunner().invoke(cli, ["editions", str(tmp_path / "y"), "--edition", "professor"])
    assert done.exit_code == 2 and "professor" in done.output


@pytest.mark.parametrize("name", ["4", "04", "04_attention_by_hand", "../04_attention_by_hand.ipynb"])
def test_a_notebook_is_known_by_number_and_name(tmp_path, name):
    (made,) = editions.build(tmp_path, ["student"], [name])
    assert [path.name for path in made.glob("*.ipynb")] == ["04_attention_by_hand.ipynb"]
    assert [path.name for path in quizzes.write(tmp_path, "gift", [name])] == ["04_attention_by_hand.gift"]


def test_a_learners_copy_without_solutions(folder, tmp_path):
    """Made from the notebooks alone, as on a machine that has no files of exercises."""
    done = CliRunner().invoke(cli, ["notebooks", str(tmp_path / "mine"), "--edition", "student"])
    assert done.exit_code == 0, done.output
    for path in (folder / "student").glob("*.ipynb"):
        mine, students = nbformat.read(tmp_path / "mine" / path.name, 4), nbformat.read(path, 4)
        assert [c.source for c in mine.cells] == [c.source for c in students.cells]
    assert (tmp_path / "mine" / "images").is_dir()


def test_strip_leaves_no_solution_in_an_installation(tmp_path, monkeypatch):
    package = tmp_path / "site" / "pg_llm"
    shutil.copytree(REPO / "pg_llm" / "course" / "exercises", package / "course" / "exercises")
    shutil.copytree(REPO / "notebooks", package / "notebooks")
    with pytest.raises(KitError, match="is a checkout"):
        editions.strip()
    monkeypatch.setattr(editions.resources, "files", lambda name: package)
    for _ in range(2):
        assert editions.strip() == package
        assert not (package / "course" / "exercises").exists()
    for path in (package / "notebooks").glob("*.ipynb"):
        sources = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
        assert "<summary>Hint 1" in sources
        assert "<summary>Solution" not in sources and "<summary>Answer" not in sources


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(editions, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError):
        editions.build(tmp_path, ["student"])
    assert list(tmp_path.iterdir()) == []


def parsed_gift(text):
    """A reader of GIFT's multiple choice questions, written from Moodle's page, not from quizzes.py."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        match = re.match(
            r"::(.*?)(?<!\\)::\[markdown\](.*?)(?<!\\)\{(.*)(?<!\\)\}\s*$", block.strip(), re.DOTALL
        )
        if match:
            body, _, feedback = match[3].partition("####")
            options = re.findall(r"(?<!\\)([=~])((?:\\.|[^\\=~])*)", body)
            plain = [
                re.sub(r"\\(.)", r"\1", text).strip()
                for text in (match[2], feedback, *(o for _, o in options))
            ]
            found.append((plain[0], plain[1], plain[2:], [mark for mark, _ in options].index("=")))
    return found


@pytest.mark.parametrize("number", NUMBERS)
def test_gift_says_what_the_quiz_says(tmp_path, number):
    (file,) = quizzes.write(tmp_path, "gift", [number])
    read = parsed_gift(file.read_text())
    flat = lambda text: " ".join(text.split())  # noqa: E731
    assert read == [
        (flat(q["question"]), flat(q["explanation"]), [flat(o) for o in q["options"]], q["answer"])
        for q in notebooks()[number]["quiz"]
    ]


def test_gift_escapes_what_it_uses_itself():
    odd = {"question": "a {b} = c: ~d # e\\f", "options": ["{x}", "y=z"], "answer": 1, "explanation": "1 = 1"}
    assert parsed_gift(quizzes.gift("t", [odd])) == [("a {b} = c: ~d # e\\f", "1 = 1", ["{x}", "y=z"], 1)]


def test_qti_is_a_package_with_every_question(tmp_path):
    pytest.importorskip("text2qti", reason="the extra `teaching` is not installed")
    import zipfile
    from xml.etree import ElementTree

    for file in quizzes.write(tmp_path, "qti"):
        with zipfile.ZipFile(file) as archive:
            names = [
                n
                for n in archive.namelist()
                if n.endswith(".xml") and "meta" not in n and "manifest" not in n
            ]
            text = archive.read(names[0])
        items = [e for e in ElementTree.fromstring(text).iter() if e.tag.endswith("}item")]
        assert len(items) == 5, file
        for item in items:
            assert len([e for e in item.iter() if e.tag.endswith("}setvar") and e.text == "100"]) == 1


def test_qti_without_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(quizzes, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install text2qti"):
        quizzes.write(tmp_path, "qti")


def test_a_solution_that_is_left_in_would_be_found(folder):
    """The search of the first test sees what the self-study edition shows."""
    number = NUMBERS[0]
    text = "\n".join(c.source for c in source(folder, "self-study", number).cells)
    assert "<summary>Solution" in text
    first = exercises()[notebooks()[number]["exercise"][0]["id"]]
    assert first.solution.strip() in text and cells.HEADING.search(text)
