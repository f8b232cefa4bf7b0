"""The course and a GPT at a glance: the map of the notebooks, and a model as the tables it is made of."""

from __future__ import annotations

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Box, Drawing
from pg_llm.notebook import session

GREEN = "#009E73"

PARTS = (
    ("Part I · What a GPT computes", (
        ("00", "start here"), ("01", "tensors are\nvalues"), ("02", "text to\ntokens"),
        ("03", "from counts to\nembeddings"), ("04", "attention by\nhand"), ("05", "the block"),
        ("06", "forward pass\nand sampling"), ("07", "GPT in\npure SQL"), ("08", "the real\nGPT-2"),
    )),
    ("Part II · How it learns", (
        ("09", "the tape"), ("10", "gradients of\nGPT-2"), ("11", "AdamW by\nhand"),
        ("12", "training,\nlive"), ("13", "transactions"), ("14", "what is wrong\nwith it?"),
        ("15", "fine-tuning"),
    )),
    ("Part III · Inside and beyond", (
        ("16", "inside the\nmodel"), ("17", "speed"), ("18", "other\narchitectures"),
        ("19", "images from\nnoise"),
    )),
)  # fmt: skip
PATHS = {
    "an evening": (BLUE, ("00", "03", "04", "12")),
    "SQL people": (ORANGE, ("00", "01", "02", "03", "04", "05", "06", "07", "08")),
    "interpretability": (GREEN, ("04", "05", "10", "16")),
}
TO_COME = ("18", "19")


def course_map() -> Drawing:
    """The twenty notebooks in their three parts, with three paths through them as coloured dots."""
    done = [number for _, notebooks in PARTS for number, _ in notebooks if number not in TO_COME]
    d = Drawing(
        1000, 372,
        "A map of the course. "
        + " ".join(
            f"{part}: {', '.join(f'{n} {title}' for n, title in notebooks)}.".replace("\n", " ")
            for part, notebooks in PARTS
        )
        + " Three paths are marked: "
        + "; ".join(f"{name} takes {', '.join(numbers)}" for name, (_, numbers) in PATHS.items())
        + f". Notebooks {TO_COME[0]} to {TO_COME[-1]} are still to come.",
        title="The course: a GPT out of your own queries",
    )  # fmt: skip
    top = 44
    for part, notebooks in PARTS:
        d.text(20, top + 14, part, size=13, bold=True, anchor="start")
        boxes = [
            _notebook(d, 20 + 107 * k, top + 24, number, title, number in done)
            for k, (number, title) in enumerate(notebooks)
        ]
        for one, next_one in zip(boxes, boxes[1:], strict=False):
            d.arrow(one.right, next_one.left, colour=GREY, width=1.2)
        top += 112
    d.text(490, top - 78, "Paths:", size=12, bold=True, anchor="start")
    for k, (name, (colour, numbers)) in enumerate(PATHS.items()):
        _dot(d, 545, top - 82 + 20 * k, colour)
        d.text(556, top - 78 + 20 * k, f"{name} · {_range(numbers)}", size=12, anchor="start")
    d.box(770, top - 92, 40, 18, dashed=True, fill="#ffffff", line=GREY)
    d.text(818, top - 78, "still to come", size=12, anchor="start")
    return d


def _notebook(d: Drawing, x: float, y: float, number: str, title: str, done: bool) -> Box:
    """One notebook's box with the dots of the paths that take it."""
    box = d.box(
        x, y, 95, 66, fill="#e8f1f8" if done else "#ffffff", line=BLUE if done else GREY, dashed=not done
    )
    d.text(x + 8, y + 17, number, size=13, bold=True, anchor="start", mono=True)
    d.text(x + 8, y + 36, title, size=11.5, anchor="start")
    for k, (colour, numbers) in enumerate(PATHS.values()):
        if number in numbers:
            _dot(d, x + 62 + 11 * k, y + 13, colour)
    return box


def _dot(d: Drawing, x: float, y: float, colour: str) -> None:
    d.box(x - 4, y - 4, 8, 8, fill=colour, line=colour)


def _range(numbers: tuple[str, ...]) -> str:
    """00–08 for numbers in a row, else the list."""
    if len(numbers) > 5:
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(numbers)


def gpt_as_tables(prompt: str, model: str = "classroom", conn=None) -> Drawing:
    """A prompt's way through a model's tables, with their rows: tokens, graph, parameters, next token.

    conn: None is the notebook's connection.
    """
    with session.connection(conn) as chosen:
        rows = _rows(chosen, prompt, model)
    tokens, graph, params, following, counts = rows
    best = ", ".join(f"{token!r} {100 * p:.0f} %" for token, p in following)
    d = Drawing(
        910, 394,
        f"The prompt {prompt!r} becomes token ids by rows of llm_bpe_vocab: "
        + ", ".join(f"{token!r} is {number}" for number, token in tokens)
        + f". llm_graph has {counts[0]} rows for model {model}, one for each step: "
        + ", ".join(f"{name} ({op})" for name, op, _ in graph)
        + f". The steps read {counts[1]} tensors, rows of llm_param: "
        + ", ".join(f"{name} of shape {shape}" for name, shape, _ in params)
        + f". The result is the probability of each next token: {best}. One token is drawn and appended, "
        "and all begins again.",
        title=f"A GPT as tables: {model}",
    )  # fmt: skip
    prompt_box = d.box(20, 62, 190, 30, prompt, fill="#ffffff", line=INK, size=12)
    vocab = _table(d, 20, 140, 190, "llm_bpe_vocab", ["token_id", "token"], [60, 130],
                   [[str(number), repr(token)] for number, token in tokens])  # fmt: skip
    steps = _table(d, 260, 62, 330, f"llm_graph · {counts[0]} steps, here {len(graph)}",
                   ["name", "op", "inputs"], [112, 78, 140], graph)  # fmt: skip
    bars = _table(d, 680, 62, 210, "llm_next_tokens", ["token", "probability"], [80, 130],
                  [[repr(token), ""] for token, _ in following])  # fmt: skip
    for k, (_, probability) in enumerate(following):
        y = 62 + 20 * (k + 1) + 6
        d.box(764, y, max(2, 80 * probability / following[0][1]), 12, fill=BLUE)
        d.text(884, y + 10, f"{100 * probability:.0f} %", size=11, anchor="end", mono=True)
    weights = Box(260, 300, 630, 76)
    d.text(260, 298, f"llm_param · {counts[1]} rows: the weights, one tensor a row (corners shown)", size=12,
           bold=True, anchor="start")  # fmt: skip
    for k, (name, shape, corner) in enumerate(params):
        x = 260 + 162 * k
        d.matrix(x, 308, corner, cell=13, height=10, numbers=False)
        d.text(x, 364, name, size=10.5, anchor="start", mono=True)
        d.text(x, 379, f"tensor({shape})", size=10.5, anchor="start", mono=True, colour="#5b6670")
    d.arrow(prompt_box.bottom, (vocab.top[0], vocab.y - 18), "")
    d.arrow((vocab.x + vocab.width, vocab.y + 40), (steps.x, vocab.y + 40))
    d.arrow((steps.x + 165, weights.y - 16), (steps.x + 165, steps.y + steps.height), colour=INK)
    d.text(steps.x + 175, steps.y + steps.height + 22, "read by the steps", size=12, anchor="start")
    d.arrow((steps.x + steps.width, 140), (bars.x, 140), "softmax")
    d.text(680, bars.y + bars.height + 22, "Draw one, append it, ask again.", size=12, anchor="start")
    return d


KINDS = (
    ("tokens", "= 'wte.weight'", BLUE), ("positions", "= 'wpe.weight'", GREY),
    ("attention", "LIKE '%%.attn.%%'", ORANGE), ("MLP", "LIKE '%%.mlp.%%'", GREEN),
)  # fmt: skip


def parameters_by_kind(models: list[str], conn=None) -> Drawing:
    """For each model a bar of one length, divided by where its parameters are; from llm_param_shapes.

    conn: None is the notebook's connection.
    """
    choice = " ".join(f"WHEN name {test} THEN '{kind}'" for kind, test, _ in KINDS)
    with session.connection(conn) as chosen:
        counts = {
            model: dict(
                chosen.execute(
                    f"SELECT CASE {choice} ELSE 'norms' END, "
                    "sum(shape[1]::bigint * coalesce(shape[2], 1))::bigint "
                    "FROM llm_param_shapes(%s) GROUP BY 1",
                    [model],
                ).fetchall()
            )
            for model in models
        }
    kinds = [(kind, colour) for kind, _, colour in KINDS] + [("norms", INK)]
    shares = {
        model: [(kind, found.get(kind, 0) / sum(found.values())) for kind, _ in kinds]
        for model, found in counts.items()
    }
    d = Drawing(
        900, 78 + 44 * len(models),
        "Where the parameters are, as fractions of a model's own: "
        + "; ".join(
            f"{model} ({sum(counts[model].values()):,} parameters): "
            + ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in parts)
            for model, parts in shares.items()
        )
        + ".",
        title="Where the parameters are",
    )  # fmt: skip
    left = 240.0
    for kind, colour in kinds:
        d.box(left, 36, 14, 14, fill=colour, line=colour)
        d.text(left + 20, 48, kind, size=12, anchor="start")
        left += 46 + 7.2 * len(kind)
    for k, (model, parts) in enumerate(shares.items()):
        y, left = 66 + 44 * k, 240.0
        d.text(20, y + 16, model, size=13, bold=True, anchor="start")
        d.text(226, y + 16, f"{sum(counts[model].values()):,}", size=12, anchor="end", mono=True)
        for (_, share), (_, colour) in zip(parts, kinds, strict=True):
            width = 640 * share
            label = f"{100 * share:.0f} %" if width > 40 else ""
            d.box(left, y, width, 26, label, fill=colour, line=colour, size=12)
            left += width
    return d


def _table(d: Drawing, x: float, y: float, width: float, title: str, columns, widths, rows) -> Box:
    """A table as it looks in a result: title, names of the columns, rows."""
    d.text(x, y - 6, title, size=12, bold=True, anchor="start")
    box = d.box(x, y, width, 24 + 20 * len(rows) + 4, fill="#ffffff")
    d.box(x, y, width, 22, fill="#e8f1f8")
    for k, row in enumerate([columns, *rows]):
        left = x
        for cell, wide in zip(row, widths, strict=True):
            d.text(left + 6, y + 15 + 20 * k + (3 if k else 0), cell, size=11, anchor="start", mono=k > 0)
            left += wide
    return box


def _rows(conn, prompt: str, model: str):
    """What the drawing shows, from the model's tables."""
    tokens = conn.execute(
        "SELECT token_id, token FROM llm_tokenize(%s, %s) ORDER BY position LIMIT 8", [prompt, model]
    ).fetchall()
    graph = conn.execute(
        "SELECT name, op, array_to_string(inputs, ', ') FROM llm_graph WHERE model = %s AND name = ANY(%s) "
        "ORDER BY id",
        [model, ["wte", "wpe", "embd", "h.0.ln_1", "h.0.attn.heads", "h.0.mlp.act", "ln_f", "logits"]],
    ).fetchall()
    graph = [(name, op, _short(inputs)) for name, op, inputs in graph]
    names = ["wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_proj.weight"]
    params = [
        (name, ",".join(map(str, shape)), corner.reshape(4, 11).tolist())
        for name, shape, corner in (
            conn.execute(
                "SELECT name, shape(data), slice(data, ARRAY[0,0], ARRAY[4,11]) FROM llm_param "
                "WHERE model = %s AND name = %s",
                [model, name],
            ).fetchone()
            for name in names
        )
    ]
    following = conn.execute(
        "SELECT token, probability FROM llm_next_tokens(%s, 6, %s)", [prompt, model]
    ).fetchall()
    counts = conn.execute(
        "SELECT (SELECT count(*) FROM llm_graph WHERE model = %(m)s AND op <> 'param'), "
        "(SELECT count(*) FROM llm_param WHERE model = %(m)s)",
        {"m": model},
    ).fetchone()
    return tokens, graph, params, following, counts


def _short(text: str) -> str:
    return text if len(text) <= 20 else text[:19] + "…"


def main() -> None:
    """Writes the map that notebooks/README.md shows: python -m pg_llm.drawings.overview FILE."""
    import sys

    course_map().save(sys.argv[1])


if __name__ == "__main__":
    main()
