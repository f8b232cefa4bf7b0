"""The widgets in JupyterLab: a headless Chromium operates them by keyboard, in the light and the dark theme.

Screenshots stay below build/screenshots, for a person to look at.
"""

from __future__ import annotations

import json
import re
import shutil

import nbformat
import pytest
from helpers import browser
from helpers.browser import Page, until
from helpers.paths import REPO

import pg_llm
from pg_llm.notebook import saving
from pg_llm.server import database as databases

pytestmark = pytest.mark.slow

# notebooks with widgets that take seconds; the widgets of 12 and 16 have tests of their own
COURSE = sorted(
    path.name
    for number in ("00", "04", "06", "09")
    for path in (REPO / "notebooks").glob(f"{number}_*.ipynb")
    if saving.MARK in path.read_text("utf-8")
)
SCRATCH = [
    "%load_ext pg_llm\nimport pg_llm",
    'box = pg_llm.prompt_box("It was Mia and")\nbox',
    "explorer = pg_llm.attention_explorer()\nexplorer",
    'view = pg_llm.tokenizer_view("unbelievable tokenizers")\nview',
    "drawing = pg_llm.architecture()\ndrawing",
    "points = pg_llm.embedding_map()\npoints",
    # what the controls have changed in Python, as a table
    'pg_llm.sql("CREATE TABLE seen AS SELECT %(p)s::text AS prompt, %(t)s::float AS temperature, '
    '%(o)s::text AS off, %(m)s::int AS merges, %(u)s::text AS unfolded", p=box.prompt, t=box.temperature, '
    "o=str(explorer.off), m=view.merges, u=str(drawing.unfold))",
    "%sql BEGIN",
    "%%sql\nUPDATE llm_param SET data = zeros(shape(data)) WHERE model = 'classroom' AND name = 'wte.weight'",
    "%sql SELECT no_such_column FROM llm_param",
    "%sql ROLLBACK",
    "import time\ntime.sleep(4)",
    'pg_llm.sql("SET pg_llm.autograd = on")\n'
    "pg_llm.sql(\"SELECT * FROM llm_backward((SELECT m * m FROM (SELECT tanh(llm_var('0.5', 'w') "
    "* llm_var('2', 'x')) - '1' AS m) AS n))\")\n"
    'pg_llm.sql("SET pg_llm.autograd = off")\n'
    "stepper = pg_llm.tape_stepper()\nstepper",
    'pg_llm.sql("CREATE TABLE stepped AS SELECT %(s)s::int AS step", s=stepper.step)',
]


@pytest.fixture(scope="module")
def chrome():
    """A headless Chromium."""
    with browser.chromium() as playwright:
        running = playwright.chromium.launch(executable_path=browser.CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def lab(server, chrome, tmp_path_factory):
    """JupyterLab on copies of the course's notebooks and a scratch one: its address and folder."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    folder.mkdir()
    for name in COURSE:
        shutil.copyfile(REPO / "notebooks" / name, folder / name)
    browser.choose_theme(home, "light")
    with browser.lab(folder, home) as address:
        yield address, folder


@pytest.fixture
def open_page(lab, chrome):
    """A function that opens a notebook in a window of its own."""
    opened = []

    def open_(name: str) -> Page:
        opened.append(chrome.new_page(viewport={"width": 1400, "height": 1500}))
        return Page(opened[-1], lab[0], name)

    yield open_
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def scratch(lab, chrome):
    """The scratch notebook after its first cells; the tests below use it in their order."""
    address, folder = lab
    browser.write(folder / "scratch.ipynb", SCRATCH)
    page = Page(chrome.new_page(viewport={"width": 1400, "height": 1500}), address, "scratch.ipynb")
    page.first_cell()
    page.run_cells(6)
    yield page
    page.page.close()


@pytest.fixture
def conn(server):
    with pg_llm.connect(databases.database_for("scratch.ipynb")) as connection:
        yield connection


def test_jupyterlab_opens_on_the_first_notebook(lab, chrome):
    """Without a launcher, and without a question about news."""
    page = chrome.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(lab[0])
    page.get_by_text("| Idle").first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)  # the question came after the notebook
    assert page.url.endswith("/lab/tree/00_start_here.ipynb")
    assert page.locator(".jp-Launcher-body").count() == 0
    assert page.locator(".Toastify__toast").count() == 0
    page.screenshot(path=browser.SHOTS / "first-light.png")
    page.close()


def test_no_line_is_longer_than_its_cell(lab, open_page):
    page = open_page(COURSE[0])
    page.page.set_viewport_size({"width": 900, "height": 1000})
    page.page.wait_for_timeout(500)
    hidden = "e => e.scrollWidth - e.clientWidth"
    editors = page.page.locator(".jp-CodeCell .cm-scroller")
    assert editors.count() > 20
    assert [n for n in range(editors.count()) if editors.nth(n).evaluate(hidden) > 1] == []


def test_cells_of_sql_are_highlighted_as_sql(lab, open_page):
    text = (
        "SELECT '50% of all' AS share, \"it's\" -- 7 % 4\nFROM llm_param\nWHERE model = :m AND data > $$ ' $$"
    )
    sources = [f"%%sql\n{text}", f"%%check 00.1\n{text}", "x = 7 % 4", "# %%sql"]
    browser.write(lab[1] / "highlighted.ipynb", sources)
    page = open_page("highlighted.ipynb")
    editors = page.page.locator(".jp-Notebook .jp-Cell .cm-content")

    def languages() -> list[str | None]:
        return [editors.nth(i).get_attribute("data-language") for i in range(editors.count())]

    until(lambda: languages() == ["sql", "sql", "python", "python"], what=f"the languages are {languages()}")
    words = editors.first.locator("span").all_inner_texts()
    assert {"SELECT", "'50% of all'", "-- 7 % 4", "FROM", "$$ ' $$"} <= {*words}, words
    for theme in ("dark", "light"):
        page.theme(theme)
        page.shot(f"sql-{theme}")
    # A first line that comes or goes changes the language.
    editors.nth(3).click()
    press(page, "Control+Home", "Delete", "Delete")
    until(lambda: languages()[3] == "sql")
    press(page, "Delete")
    until(lambda: languages()[3] == "python")
    assert page.errors() == []


def facts(conn) -> list:
    return conn.execute(
        "SELECT (SELECT array_agg(g::text ORDER BY model, id) FROM llm_graph g), "
        "(SELECT array_agg(v::text ORDER BY model) FROM llm_model_version v), (SELECT count(*) FROM llm_run)"
    ).fetchall()


def focused(page: Page) -> str:
    """The class and label of what has the focus."""
    return page.page.evaluate(
        "() => ['class', 'aria-label'].map(a => document.activeElement.getAttribute(a) ?? '').join(' ')"
    )


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.page.keyboard.press(key)
        page.page.wait_for_timeout(60)


def test_the_prompt_box_by_keyboard(scratch, conn):
    before = facts(conn)
    box = scratch.widget("prompt")
    assert box.locator(".pgl-unknown").all_inner_texts() == ["Mia"]
    assert "227 words" in box.locator(".pgl-notes").inner_text()
    scratch.shot("prompt-light", box)
    # Tab leads through the controls in their order.
    box.locator("textarea").focus()
    order = []
    for _ in range(6):
        press(scratch, "Tab")
        order.append(focused(scratch).split()[0])
    assert order == ["pgl-button"] * 2 + ["pgl-range"] * 3 + ["pgl-bar"]
    style = scratch.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"  # the focus can be seen
    # Arrow keys move a slider; the bars follow.
    first = box.locator(".pgl-bar").first
    told = first.inner_text()
    box.locator(".pgl-range").first.focus()
    press(scratch, *["ArrowRight"] * 10)
    until(lambda: first.inner_text() != told)
    assert box.locator(".pgl-slider output").first.inner_text() == "1.50"
    box.locator(".pgl-range").nth(1).focus()
    press(scratch, "Home", "ArrowRight", "ArrowRight")
    until(lambda: box.locator(".pgl-bar.pgl-out").count() == 7)
    scratch.shot("prompt-limited-light", box)
    # Down and Enter append the second bar's token.
    first.focus()
    press(scratch, "ArrowDown")
    token = box.locator(".pgl-bar").nth(1).get_attribute("data-token")
    press(scratch, "Enter")
    until(lambda: box.locator("textarea").input_value() == f"It was Mia and{token}")
    # Typing is read, too, and JupyterLab's own keys keep out of it.
    box.locator("textarea").focus()
    press(scratch, "Control+a")
    scratch.page.keyboard.type("It was bad")
    until(lambda: box.locator(".pgl-unknown").all_inner_texts() == ["bad"])
    box.locator(".pgl-chip").nth(2).focus()
    press(scratch, "Space")
    until(lambda: box.locator(".pgl-unknown").count() == 0)
    until(lambda: box.locator("textarea").input_value().endswith("Max"))
    scratch.theme("dark")
    scratch.shot("prompt-dark", box)
    scratch.theme("light")
    assert facts(conn) == before and not box.locator(".pgl-error").is_visible()


def test_a_head_is_switched_off_by_keyboard(scratch, conn):
    before = facts(conn)
    explorer = scratch.widget("attention")
    scratch.shot("attention-light", explorer)
    heads = explorer.locator(".pgl-head")
    assert heads.count() == 16
    heads.nth(14).focus()
    press(scratch, "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft")
    assert "Layer 3, head 2" in focused(scratch)
    number = explorer.locator(".pgl-bar .pgl-number").first
    told = number.inner_text()
    press(scratch, "Enter")
    until(lambda: "→" in number.inner_text())
    assert number.inner_text().startswith(told) and heads.nth(14).get_attribute("aria-pressed") == "true"
    assert "Layer 3, head 2, off" in focused(scratch)  # the focus stays on the head
    press(scratch, "ArrowRight", "Space")
    until(lambda: explorer.locator(".pgl-off").count() == 2)
    scratch.shot("attention-off-light", explorer)
    assert "head_mask" in explorer.locator(".pgl-sql").text_content()
    assert facts(conn) == before
    # Another query token: the lines follow.
    heading = explorer.locator(".pgl-heading").first
    explorer.locator("[role=option][tabindex='0']").focus()
    press(scratch, "ArrowUp", "ArrowUp")
    until(lambda: "tent attends" in heading.inner_text())
    scratch.theme("dark")
    scratch.shot("attention-dark", explorer)
    scratch.theme("light")
    assert not explorer.locator(".pgl-error").is_visible()


def test_the_slider_over_merges(scratch):
    view = scratch.widget("tokenizer")
    pieces = view.locator(".pgl-piece")
    whole = pieces.count()
    view.locator(".pgl-range").focus()
    press(scratch, "Home")
    until(lambda: pieces.count() == len("unbelievable tokenizers"))
    scratch.shot("tokenizer-bytes-light", view)
    press(scratch, *["ArrowRight"] * 8)
    until(lambda: whole < pieces.count() < len("unbelievable tokenizers"))
    scratch.shot("tokenizer-light", view)
    scratch.theme("dark")
    scratch.shot("tokenizer-dark", view)
    scratch.theme("light")


def test_blocks_unfold_by_keyboard(scratch):
    drawing = scratch.widget("architecture")
    scratch.shot("architecture-light", drawing)
    node = drawing.locator(".pgl-node[tabindex='0']")
    assert node.get_attribute("aria-expanded") == "true"
    node.focus()
    press(scratch, "ArrowDown")
    assert drawing.locator(".pgl-facts h4").inner_text() == "h.1"
    press(scratch, "Enter")
    until(lambda: drawing.locator('.pgl-node[data-column="h.1"]').count() > 10)
    assert "h.1" in focused(scratch) or drawing.locator(".pgl-chosen").get_attribute("data-name") == "h.1"
    drawing.locator('.pgl-node[data-column="h.0"][data-name="h.0.attn.heads"]').click()
    assert "attention" in drawing.locator(".pgl-facts").inner_text()
    assert "n_head: 4" in drawing.locator(".pgl-facts").inner_text()
    scratch.theme("dark")
    scratch.shot("architecture-dark", drawing)
    scratch.theme("light")


def test_a_point_is_found_and_left_by_keyboard(scratch, conn):
    before = facts(conn)
    view = scratch.widget("embeddings")
    scratch.shot("embeddings-light", view)
    near, heading = view.locator(".pgl-near li"), view.locator(".pgl-heading")
    assert near.count() == 8 and "by cosine" in heading.inner_text()
    search = view.locator(".pgl-search")
    search.focus()
    scratch.page.keyboard.type("garden")
    press(scratch, "Enter")
    until(lambda: "garden" in heading.inner_text())
    row = conn.execute(view.locator(".pgl-sql").text_content().replace("%", "%%")).fetchone()
    assert near.first.inner_text().split()[-1] == f"{row[1]:.2f}"
    scratch.page.keyboard.type("xyz")
    press(scratch, "Enter")
    assert "no point" in view.locator("[role=status]").inner_text()
    # Arrows go from point to point; the focus stays on the map.
    point = view.locator(".pgl-point[tabindex='0']")
    assert "garden" in point.get_attribute("aria-label")
    point.focus()
    press(scratch, "ArrowDown")
    until(lambda: "garden" not in heading.inner_text())
    assert "pgl-point" in focused(scratch)
    there = heading.inner_text()
    press(scratch, "ArrowRight")
    until(lambda: heading.inner_text() != there)
    # A neighbour is chosen by Enter.
    first = near.first.locator("button")
    word = first.inner_text()
    first.focus()
    press(scratch, "Enter")
    until(lambda: word.strip("␣") in heading.inner_text())
    scratch.theme("dark")
    scratch.shot("embeddings-dark", view)
    scratch.theme("light")
    assert facts(conn) == before and not view.locator(".pgl-error").is_visible()


def test_python_knows_what_the_controls_say(scratch, conn):
    """A cell stores the widgets' state in a table, which another session reads."""
    scratch.page.locator(".jp-Notebook > .jp-WindowedPanel-outer .jp-Cell, .jp-Notebook .jp-Cell").nth(
        6
    ).locator(".jp-InputPrompt").click()
    scratch.run_cells(1)
    prompt, temperature, off, merges, unfolded = conn.execute("SELECT * FROM seen").fetchone()
    assert prompt.endswith(" Max") and temperature == pytest.approx(1.5)
    assert off == "[[3, 2], [3, 3]]" and 0 < merges < 50000 and unfolded == "['h.0', 'h.1']"


def test_uncommitted_changes_are_seen_and_errors_shown(scratch, conn):
    box = scratch.widget("prompt")
    box.locator(".pgl-range").nth(1).focus()
    press(scratch, "End")
    until(lambda: box.locator(".pgl-out").count() == 0)
    told = box.locator(".pgl-bars").inner_text()
    cells = scratch.page.locator(".jp-Notebook .jp-Cell")
    cells.nth(7).locator(".jp-InputPrompt").click()
    scratch.run_cells(2)  # BEGIN, all embeddings are zero
    box.locator(".pgl-range").first.focus()
    press(scratch, "ArrowLeft")
    until(lambda: box.locator(".pgl-bars").inner_text() != told)
    until(
        lambda: len({*box.locator(".pgl-number").all_inner_texts()}) == 1,
        what="all tokens are equally probable",
    )
    cells.nth(9).locator(".jp-InputPrompt").click()
    scratch.run_cells(1)  # an error: the transaction has failed
    box.locator(".pgl-range").first.focus()
    press(scratch, "ArrowLeft")
    until(lambda: box.locator(".pgl-error").is_visible())
    assert "ROLLBACK" in box.locator(".pgl-error").inner_text()
    box.scroll_into_view_if_needed()
    scratch.shot("error-light", box)
    cells.nth(10).locator(".jp-InputPrompt").click()
    scratch.run_cells(1)
    box.locator(".pgl-error button").focus()
    press(scratch, "Enter")
    until(lambda: not box.locator(".pgl-error").is_visible())
    until(lambda: len({*box.locator(".pgl-number").all_inner_texts()}) > 1)


def test_an_event_waits_for_the_cell_that_is_running(scratch):
    scratch.page.locator(".jp-Notebook .jp-Cell").nth(11).locator(".jp-InputPrompt").click()
    press(scratch, "Shift+Enter")
    box = scratch.widget("prompt")
    told = box.locator(".pgl-bars").inner_text()
    box.locator(".pgl-range").first.focus()
    press(scratch, "Home")
    until(lambda: box.locator(".pgl-waiting").is_visible(), timeout=4)
    assert box.locator(".pgl-bars").inner_text() == told
    until(lambda: not box.locator(".pgl-waiting").is_visible())
    assert box.locator(".pgl-bars").inner_text() != told


def test_a_tape_is_stepped_through_by_keyboard(scratch, conn):
    cells = scratch.page.locator(".jp-Notebook .jp-Cell")
    cells.nth(12).locator(".jp-InputPrompt").click()
    scratch.run_cells(1)
    before = facts(conn)
    stepper = scratch.widget("tape")
    values = stepper.locator("td.pgl-tape-value")
    gradients = stepper.locator("td.pgl-tape-gradient")
    line = stepper.locator(".pgl-tape-line")
    assert values.all_inner_texts() == [""] * 4
    stepper.locator(".pgl-range").focus()
    press(scratch, "ArrowRight", "ArrowRight")
    until(lambda: "Forward, row 2" in line.inner_text())
    assert values.all_inner_texts()[2:] == ["", ""] and values.nth(1).inner_text() == "0.7616"
    # The graph takes the keys, too, and shows the same on its nodes.
    stepper.locator(".pgl-tape-graph").focus()
    press(scratch, "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight")
    until(lambda: "Backward, row 4" in line.inner_text())
    shown = gradients.all_inner_texts()
    assert shown[3] == "1" and shown[:2] == ["", ""] and shown[2].startswith("−0.47")
    node = stepper.locator(".pgl-tape-node.pgl-touched .pgl-tape-gradient")
    assert node.all_text_contents() == [shown[2]]
    assert stepper.locator(".pgl-tape-use.pgl-now").count() == 2  # both arrows of m * m
    scratch.shot("tape-light", stepper)
    press(scratch, "End")
    until(lambda: "Backward, row 1" in line.inner_text())
    assert "" not in gradients.all_inner_texts()
    scratch.theme("dark")
    scratch.shot("tape-dark", stepper)
    scratch.theme("light")
    press(scratch, "Home")
    until(lambda: values.all_inner_texts() == [""] * 4)
    stepper.locator("button[aria-label='One step on']").focus()
    press(scratch, "Enter", "Enter", "Enter")
    until(lambda: "Forward, row 3" in line.inner_text())
    cells.nth(13).locator(".jp-InputPrompt").click()
    scratch.run_cells(1)  # Python knows the step, and another session reads it
    assert conn.execute("SELECT step FROM stepped").fetchone() == (3,)
    assert facts(conn) == before and not stepper.locator(".pgl-error").is_visible()


def test_a_saved_notebook_shows_the_pictures_again(scratch, lab, open_page):
    scratch.save()
    path = lab[1] / "scratch.ipynb"
    until(lambda: saving.MARK in path.read_text())
    assert saving.VIEW not in path.read_text()
    # Another notebook file, so that JupyterLab starts another kernel; it is not trusted.
    content = json.loads(path.read_text())
    (lab[1] / "opened again.ipynb").write_text(json.dumps(content))
    page = open_page("opened again.ipynb")
    pictures = page.page.locator(f".{saving.MARK} img")
    until(lambda: pictures.count() == 6, timeout=30)
    for i in range(6):
        assert len(pictures.nth(i).get_attribute("alt")) > 60
        assert pictures.nth(i).evaluate("img => img.complete && img.naturalWidth > 100")
    assert page.page.get_by_text("Error displaying widget").count() == 0
    pictures.first.scroll_into_view_if_needed()
    page.shot("saved-light")
    page.theme("dark")
    page.shot("saved-dark")
    assert scratch.errors() == [] and page.errors() == []


MONITORED = [
    "%load_ext pg_llm\nimport pg_llm",
    "%sql SELECT llm_create_model('small', 1, 2, 32, 192, 786, tokenizer => 'classroom'), "
    "llm_init_model('small', 2), llm_story_dataset('stories', 1, 60, 'classroom')",
    "lines = {'uniform': 6.667, 'floor': 0.741}",
    "monitor = pg_llm.training_monitor('small', 600, dataset='stories', batch_size=2, lr_max=0.005, "
    "warmup=5, every=100, prompt='It was', tokens=8, commit_every=2, references=lines)\nmonitor",
    "import time\ntime.sleep(8)",
]


def test_a_training_is_started_stopped_resumed_and_rolled_back_by_keyboard(lab, chrome):
    """What the buttons do is read back from the database: steps, runs, and the hash of the weights."""
    browser.write(lab[1] / "monitored.ipynb", MONITORED)
    page = Page(chrome.new_page(viewport={"width": 1400, "height": 1500}), lab[0], "monitored.ipynb")
    page.first_cell()
    page.run_cells(4)
    with pg_llm.connect(databases.database_for("monitored.ipynb")) as conn:

        def value(query: str):
            return conn.execute(query).fetchone()[0]

        sha = "SELECT llm_model_sha256('small')"
        steps = "SELECT coalesce(max(step), 0) FROM llm_param WHERE model = 'small'"
        before = value(sha)
        box = page.widget("monitor")
        told = box.locator(".pgl-progress")
        assert told.inner_text().startswith("Ready") and value(steps) == 0
        page.shot("monitor-ready-light", box)
        # Tab leads through the controls in their order.
        box.locator(".pgl-button").first.focus()
        order = [focused(page)]
        for _ in range(4):
            press(page, "Tab")
            order.append(focused(page))
        assert [name.split()[0] for name in order] == ["pgl-button"] * 3 + ["pgl-range", "pgl-samples"]
        # Start, also while a cell is running.
        page.page.locator(".jp-Notebook .jp-Cell").nth(4).locator(".jp-InputPrompt").click()
        press(page, "Shift+Enter")
        start, stop, back = (box.locator(".pgl-button").nth(i) for i in range(3))
        start.focus()
        press(page, "Enter")
        until(lambda: told.inner_text().startswith("Training") and value(steps) > 3, timeout=40)
        assert start.get_attribute("aria-disabled") == "true" and "pgl-first" in focused(page)
        stop.focus()
        press(page, "Space")
        until(lambda: told.inner_text().startswith("Stopped"))
        at = value(steps)
        assert 3 < at < 600 and f"step {at} of 600" in told.inner_text()
        assert value("SELECT max(step) FROM llm_train_log WHERE model = 'small'") == at
        page.shot("monitor-stopped-light", box)
        page.idle()
        # Resume: one run, with the samples of an uninterrupted one.
        start.focus()
        assert start.inner_text() == "Resume"
        press(page, "Enter")
        until(lambda: told.inner_text().startswith("Done"), timeout=40)
        assert value(steps) == 600
        assert value("SELECT count(DISTINCT run) FROM llm_train_log WHERE model = 'small'") == 1
        samples = box.locator(".pgl-samples li:not(.pgl-undone) .pgl-number:first-child").all_inner_texts()
        assert samples == [f"step {n}" for n in range(0, 601, 100)]
        page.theme("dark")
        page.shot("monitor-done-dark", box)
        page.theme("light")
        page.shot("monitor-done-light", box)
        trained = value(sha)
        # Another learning rate is another run.
        box.locator(".pgl-range").focus()
        press(page, *["ArrowLeft"] * 4)
        until(lambda: box.locator(".pgl-slider output").inner_text() == "0.0032")
        # Rolled back, the weights are those before the start, to the bit.
        back.focus()
        press(page, "Enter")
        until(lambda: told.inner_text().startswith("Ready"))
        assert value(sha) == before != trained and value(steps) == 0
        until(lambda: box.locator(".pgl-undone").count() > 5)
        page.shot("monitor-back-light", box)
        start.focus()
        press(page, "Enter")
        until(lambda: told.inner_text().startswith("Done"), timeout=60)
        assert value("SELECT lr_max FROM llm_train_run ORDER BY run DESC LIMIT 1") == pytest.approx(0.0032)
        assert value(sha) not in (before, trained)
        # An error of the server appears in the widget.
        conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
        press(page, "Enter")
        until(lambda: told.inner_text().startswith("Failed"))
        assert "small" in box.locator(".pgl-error").inner_text()
        page.shot("monitor-error-light", box)
    assert page.errors() == []
    page.page.close()


# kind of widget -> the function that makes it, its first control, and a key that moves that
CONTROLS = {
    "prompt": ("prompt_box", ".pgl-range", "ArrowRight"),
    "attention": ("attention_explorer", ".pgl-head", "Enter"),
    "tokenizer": ("tokenizer_view", ".pgl-range", "ArrowLeft"),
    "architecture": ("architecture", ".pgl-node[tabindex='0']", "ArrowDown"),
    "monitor": ("training_monitor", ".pgl-samples", "ArrowDown"),
    "embeddings": ("embedding_map", ".pgl-point[tabindex='0']", "ArrowDown"),
    "tape": ("tape_stepper", ".pgl-range", "ArrowRight"),
    "lens": ("logit_lens", ".pgl-lenscell[tabindex='0']", "ArrowLeft"),
}


@pytest.mark.parametrize("name", COURSE)
def test_a_notebook_of_the_course_runs_by_keyboard(name, lab, open_page):
    """Every cell with Shift+Enter; each widget in it is moved and photographed in both themes."""
    cells = nbformat.read(lab[1] / name, 4).cells
    page = open_page(name)
    page.first_cell()
    page.run_cells(len(cells))
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    for kind, (function, _, _) in CONTROLS.items():
        made = len(re.findall(rf"^pg_llm\.{function}\(", source, re.MULTILINE))
        assert page.page.locator(f".pgl-{kind}").count() >= made, f"{function} shows no widget"
    kinds = [kind for kind in CONTROLS for _ in range(page.page.locator(f".pgl-{kind}").count())]
    for kind in dict.fromkeys(kinds):
        for index in range(kinds.count(kind)):
            widget = page.widget(kind, index)
            _, selector, key = CONTROLS[kind]
            widget.locator(selector).first.focus()
            press(page, key)
            page.page.wait_for_timeout(800)
            assert not widget.locator(".pgl-error").is_visible(), widget.locator(".pgl-error").inner_text()
            for theme in ("dark", "light"):
                page.theme(theme)
                page.shot(f"{re.sub('[.]ipynb$', '', name)}-{kind}-{index}-{theme}", widget)
    assert page.page.get_by_text("Error displaying widget").count() == 0
    assert page.errors() == []


def test_the_logit_lens_by_keyboard(lab, open_page):
    cells = ["%load_ext pg_llm\nimport pg_llm", "lens = pg_llm.logit_lens()\nlens"]
    seen = "CREATE TABLE seen AS SELECT :n AS node, :p::int AS position"
    seen = f"pg_llm.sql({seen!r}, n=lens.node, p=lens.position)"
    browser.write(lab[1] / "lens.ipynb", [*cells, seen])
    page = open_page("lens.ipynb")
    page.first_cell()
    page.run_cells(2)
    lens = page.widget("lens")
    with pg_llm.connect(databases.database_for("lens.ipynb")) as connection:
        before = facts(connection)
        page.shot("lens-light", lens)
        grid = lens.locator(".pgl-lenscell")
        T = lens.locator(".pgl-lenstoken").count()
        assert grid.count() == 5 * T
        heading = lens.locator(".pgl-heading")
        assert heading.inner_text() == f"After h.3, at ␣Ruth (position {T - 1})"
        first = lens.locator(".pgl-bar").first
        assert first.get_attribute("data-token") == " Gray"
        # The focus goes through layers and tokens; the bars follow.
        lens.locator(".pgl-lenscell[tabindex='0']").focus()
        press(page, "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown")
        until(lambda: heading.inner_text().startswith("After embd"))
        assert first.get_attribute("data-token") == " Ruth"
        press(page, "Home", "ArrowRight", "ArrowUp")
        until(lambda: heading.inner_text() == "After h.0, at ␣was (position 1)")
        assert "h.0" in focused(page) and "h.0" in lens.locator(".pgl-sql").text_content()
        page.page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".jp-InputPrompt").click()
        page.run_cells(1)
        until(lambda: connection.execute("SELECT to_regclass('seen') IS NOT NULL").fetchone() == (True,))
        assert connection.execute("SELECT node, position FROM seen").fetchone() == ("h.0", 1)
        # Another text is another grid.
        lens.locator(".pgl-line-input").focus()
        press(page, "Control+a")
        page.page.keyboard.type("It was bad")
        press(page, "Enter")
        until(lambda: lens.locator(".pgl-notes").inner_text().count("bad") > 0)
        page.theme("dark")
        page.shot("lens-dark", lens)
        page.theme("light")
        assert facts(connection) == before
    assert not lens.locator(".pgl-error").is_visible() and page.errors() == []
