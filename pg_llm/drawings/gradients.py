"""Drawings of the backward pass: half a block with shapes, layer norm's three paths, the two uses of wte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Box, Drawing

DIM = "#4a5560"
STEPS = {  # the MLP's half of a block: what each does, its weight, the exercise about its backward pass
    "ln_2": ("layer norm", "ln_2.weight", "10.4"),
    "mlp.c_fc": ("x @ w + b", "mlp.c_fc.weight", "10.2"),
    "mlp.act": ("gelu", "", "10.3"),
    "mlp.c_proj": ("x @ w + b", "mlp.c_proj.weight", "10.2"),
}


def half_block(shapes: Mapping[str, Sequence[int]], norms: Mapping[str, float], block: str) -> Drawing:
    """Forward and backward through the MLP's half of a block.

    shapes: {name: shape} of the block's tensors and weights; norms: those of their gradients. Names are
    full, such as h.3.mlp.c_fc.
    """

    def at(name: str) -> str:
        return _shape(shapes[f"{block}.{name}"])

    said = "; ".join(f"{s} {at(s)}, its gradient of norm {norms[f'{block}.{s}']:.4f}" for s in STEPS)
    weights = ", ".join(f"{weight} {at(weight)}" for _, weight, _ in STEPS.values() if weight)
    d = Drawing(
        880, 372,
        f"The MLP's half of block {block}, forward from left to right: {said}. Weights: {weights}. Backward, "
        f"from right to left: at the sum the gradient of {block} goes both ways, unchanged along the stream, "
        "and into c_proj; each box passes on a gradient of the shape of its input and one of the shape of "
        "its weight; where the norm read the stream, both contributions are added.",
        f"Half of block {block}: forward in black, backward in orange",
    )  # fmt: skip
    top, base, wide, step = 128, 290, 128, 192
    boxes: list[Box] = []
    for k, (name, (does, weight, exercise)) in enumerate(STEPS.items()):
        x = 92 + k * step
        label = f"{name.split('.')[-1]}\n{does}\n{at(name)}"
        box = d.box(x, top, wide, 64, label, size=12, fill="#ffffff" if weight else "#f8dfcf")
        middle = x + wide / 2
        d.text(x + 2, top + 80, exercise, size=11, colour=DIM, anchor="start")
        if weight:
            held = d.box(x, 46, wide, 40, f"{weight.removeprefix('mlp.')}\n{at(weight)}", size=11)
            d.arrow((middle - 12, held.bottom[1]), (middle - 12, top))
            d.arrow((middle + 12, top), (middle + 12, held.bottom[1]), colour=ORANGE)
            d.text(
                middle + 20,
                112,
                "dγ, dβ" if "ln" in weight else "dw, db",
                size=11,
                colour=ORANGE,
                anchor="start",
            )
        if k:
            left = boxes[k - 1]
            d.arrow((left.x + wide, top + 20), (x, top + 20))
            d.arrow((x, top + 44), (left.x + wide, top + 44), colour=ORANGE)
            norm = norms[f"{block}.{list(STEPS)[k - 1]}"]
            d.text((left.x + wide + x) / 2, top + 60, f"{norm:.4f}", size=10.5, colour=ORANGE)
        boxes.append(box)
    first, last = boxes[0].x + wide / 2, boxes[-1].x + wide / 2
    d.line((20, base), (846, base), colour=BLUE, width=6)
    d.arrow((842, base), (864, base), colour=BLUE, width=6)
    d.arrow((846, base + 22), (24, base + 22), colour=ORANGE, width=2)
    d.text(24, base + 46, f"{block}.attn.residual", size=11, mono=True, anchor="start")
    arrived = f"gradient {norms[f'{block}.attn.residual']:.4f}"
    d.text(24, base + 62, arrived, size=11, colour=ORANGE, anchor="start")
    d.text(856, base + 46, block, size=11, mono=True, anchor="end")
    d.text(856, base + 62, f"gradient {norms[block]:.4f}", size=11, colour=ORANGE, anchor="end")
    d.arrow((first - 12, base - 3), (first - 12, top + 64))
    d.arrow((first + 12, top + 64), (first + 12, base + 20), colour=ORANGE, width=2)
    d.arrow((last - 12, top + 64), (last - 12, base - 12))
    d.arrow((last + 12, base + 20), (last + 12, top + 64), colour=ORANGE, width=2)
    d.box(last - 24, base - 12, 24, 24, "+", fill="#ffffff", size=16)
    d.text((first + last) / 2, base + 42, "around the MLP: unchanged", size=12, colour=ORANGE)
    d.text((first + last) / 2, base + 62, "orange numbers: norms of the gradients", size=11, colour=DIM)
    d.text(first + 20, base - 22, "both are added here", size=11, colour=ORANGE, anchor="start")
    d.text(last - 36, base - 22, "goes both ways here", size=11, colour=ORANGE, anchor="end")
    return d


def layer_norm_paths() -> Drawing:
    """The three paths from hat back to x, direct, through the mean and through sd, and each step's slope."""
    d = Drawing(
        760, 268,
        "From hat three paths lead back to a channel of x. Direct, with the slope 1 / sd. Through the mean: "
        "minus 1 / sd for every channel of hat, then 1 / C. Through sd: minus hat / sd for every channel of "
        "hat, then hat / C.",
        "Three paths lead from hat back to x",
    )  # fmt: skip
    x = d.box(40, 112, 110, 48, "x\none channel", fill="#ffffff")
    mean = d.box(310, 44, 130, 42, "mean", fill="#e8f1f8")
    sd = d.box(310, 186, 130, 42, "sd", fill="#e8f1f8")
    hat = d.box(600, 112, 120, 48, "hat\nall channels", fill="#ffffff")
    d.arrow(hat.left, x.right, colour=ORANGE, width=2)
    d.text(375, 130, "direct: 1 / sd", size=13, colour=ORANGE)
    for box, near, far, dy in ((mean, "−1 / sd", "1 / C", -1), (sd, "−hat / sd", "hat / C", 1)):
        d.arrow((hat.x + 20, hat.y if dy < 0 else hat.y + 48), box.right, colour=ORANGE, width=2)
        d.arrow(box.left, (x.x + 90, x.y if dy < 0 else x.y + 48), colour=ORANGE, width=2)
        y = 78 if dy < 0 else 204
        d.text(548, y, near, size=13, colour=ORANGE, anchor="start")
        d.text(196, y, far, size=13, colour=ORANGE, anchor="end")
    d.text(740, 256, "C: the number of channels; slopes beside the arrows", size=11, colour=DIM, anchor="end")
    return d


def two_uses(head: float, embedding: float, both: float, rows: int, shape: Sequence[int]) -> Drawing:
    """wte at both ends of a model: where its two gradients come from, their norms and that of their sum.

    rows: how many of its rows the sequence's tokens read as embeddings; shape: that of wte, (V,C).
    """
    vocab = shape[0]
    d = Drawing(
        800, 300,
        f"The matrix wte {_shape(shape)} is used twice: as the embedding, where {rows} of its {vocab} rows "
        f"are read, and as the head, where all {vocab} are. Backward, the embedding sends a gradient of "
        f"norm {embedding:.3f} and the head one of norm {head:.3f}; their sum, of norm {both:.3f}, is the "
        "gradient of wte.",
        "One matrix, two uses, two gradients",
    )  # fmt: skip
    y = 206
    names = [("ids", 60), ("embedding", 118), ("blocks", 118), ("ln_f", 70), ("head", 118), ("loss", 60)]
    x, boxes = 24, {}
    for name, width in names:
        used = name in ("embedding", "head")
        boxes[name] = d.box(
            x, y, width, 46, name, fill="#e8f1f8" if used else "#ffffff", line=BLUE if used else GREY
        )
        x += width + 42
    order = [boxes[name] for name, _ in names]
    for a, b in zip(order, order[1:], strict=False):
        d.arrow((a.x + a.width, y + 16), (b.x, y + 16))
        if a is not boxes["ids"]:
            d.arrow((b.x, y + 34), (a.x + a.width, y + 34), colour=ORANGE)
    wte = d.box(300, 54, 180, 56, f"wte.weight {_shape(shape)}\ngradient {both:.3f}", fill="#cfe3f3")
    for name, norm, says, side in (
        ("embedding", embedding, f"{rows} rows", -1),
        ("head", head, f"all {vocab} rows", 1),
    ):
        box = boxes[name]
        middle, edge = box.x + box.width / 2, wte.x if side < 0 else wte.x + wte.width
        d.arrow((edge, 74), (middle + side * 4, y), colour=INK, bend=0)
        d.arrow((middle - side * 34, y), (edge + side * -24, 110), colour=ORANGE, width=2)
        anchor = "end" if side < 0 else "start"
        d.text(middle + side * 20, 140, f"reads {says}", size=12, anchor=anchor)
        d.text(middle + side * 20, 158, f"gradient {norm:.3f}", size=12, colour=ORANGE, anchor=anchor)
    d.text(400, 288, "black: forward; orange: backward. Both contributions are added.", size=11, colour=DIM)
    return d


def _shape(shape: Sequence[int]) -> str:
    return "(" + ",".join(map(str, shape)) + ")"
