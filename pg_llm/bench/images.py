"""Convolutional networks: a denoising step and a training step, beside diffusers on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pg_llm import catalog
from pg_llm.bench.kit import Kit
from pg_llm.bench.peers import installed
from pg_llm.bench.report import OURS, Row, row
from pg_llm.bench.timing import Figure, seconds, summary
from pg_llm.classroom import butterflies
from pg_llm.files.unet import unet_nodes
from pg_llm.files.unet_import import write_graph

MODEL, TRAINED = "bench-unet", "bench-unet-training"
ROUNDS = 3
# A U-Net for 64 x 64 pixels, with the channels of the diffusers course's first unit.
LARGE = {
    "sample_size": 64, "layers_per_block": 2, "block_out_channels": [64, 128, 128, 256],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}  # fmt: skip


def denoising(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a step of the reverse process, all of it by llm_denoise."""
    steps = 3 if kit.quick else 10
    cases = {"32 x 32, 16 images": (butterflies.recipe()["unet"], 16)}
    if not kit.quick:
        cases["64 x 64, 1 image"] = (LARGE, 1)
    for name, (config, images) in cases.items():
        operations = make(kit, config)
        query = "SELECT count(image) FROM llm_denoise(%s, 1, %s, n => %s)"

        def ours(query=query, images=images) -> float:
            return seconds(lambda: kit.one(query, (MODEL, steps, images))) / steps

        measures: dict[str, Callable[[], float]] = {OURS: ours, **diffusers_step(kit, config, images, steps)}
        figures, peak = kit.beside("fma_gflops", measures)
        yield row(
            f"denoising step, {name}", "ms", {n: f.times(1e3) for n, f in figures.items()},
            bound=1e-6 * images * operations / peak, bound_name="peak", smaller_is_better=True,
            target="70 % of peak" if config is LARGE else "",
        )  # fmt: skip
        drop(kit)


def training(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a training step of the network that draws butterflies."""
    made_by = butterflies.recipe()
    B, n = (4, 2) if kit.quick else (made_by["train"]["batch_size"], 5)
    operations = 3 * B * make(kit, made_by["unet"])  # forward, and twice backward
    query = (
        "SELECT llm_train(%s, %s, dataset => %s, batch_size => %s, dropout_p => 0, lr_max => 1e-4, "
        "warmup => 1, notice_every => 0)"
    )
    log = "SELECT seconds FROM llm_train_log WHERE model = %s ORDER BY id DESC LIMIT %s"
    times: dict[str, list[float]] = {OURS: []}
    trainer = diffusers_trainer(kit, made_by["unet"], B)
    peaks = []
    for _ in range(1 if kit.quick else ROUNDS):
        kit.settle()
        kit.one(query, (TRAINED, n + 1, TRAINED, B))
        times[OURS] += [s for (s,) in kit.conn.execute(log, (TRAINED, n)).fetchall()]
        peaks.append(kit.one("SELECT fma_gflops FROM llm_measure_peak()"))
        if trainer:
            times.setdefault("PyTorch", []).extend(trainer(n))
    figures: dict[str, Figure] = {name: summary(values).times(1e3) for name, values in times.items()}
    yield row(
        f"training step, butterfly network, batch {B}", "ms", figures,
        bound=1e-6 * operations / float(np.median(peaks)), bound_name="peak", smaller_is_better=True,
        target="60 % of peak",
    )  # fmt: skip
    drop(kit)


def make(kit: Kit, config: Mapping[str, Any]) -> float:
    """Writes a U-Net with random weights, and one with its loss; returns the operations of an image's pass.

    The operations are those that the tape records for the forward pass of a training step with one image.
    """
    drop(kit)
    noise = butterflies.recipe()["noise"]
    schema, size = catalog.schema(kit.conn), config["sample_size"]
    with kit.conn.transaction(), kit.conn.cursor() as cursor:
        for model in (MODEL, TRAINED):
            write_graph(cursor, schema, model, {"unet": dict(config), "noise": noise}, unet_nodes(config))
            kit.one("SELECT llm_init_model(%s, 0)", (model,))
        butterflies.add_noise_loss(kit.conn, TRAINED)
    kit.conn.execute(
        "INSERT INTO llm_dataset (dataset, names, tensors) SELECT %s, '{x0}', "
        "ARRAY[uniform(ARRAY[3, %s, %s], i, -1, 1)] FROM generate_series(1, 64) AS i",
        (TRAINED, size, size),
    )
    kit.one(
        "SELECT llm_train(%s, 1, dataset => %s, batch_size => 1, dropout_p => 0, warmup => 0, "
        "notice_every => 0, trace => true)",
        (TRAINED, TRAINED),
    )
    return kit.one("SELECT sum(flops) FROM llm_op_cost WHERE run = (SELECT max(run) FROM llm_op_cost)")


def drop(kit: Kit) -> None:
    """Drops the models and the images."""
    for model in (MODEL, TRAINED):
        kit.drop_model(model)
    kit.conn.execute("DELETE FROM llm_dataset WHERE dataset = %s", (TRAINED,))


# -- diffusers ----


def network(kit: Kit, config: Mapping[str, Any]):
    """The same network in diffusers, or None if it is not installed."""
    if not kit.with_peers or not (installed("torch") and installed("diffusers")):
        return None
    import torch
    from diffusers import UNet2DModel

    torch.set_num_threads(kit.threads)
    return UNet2DModel(**{key: value for key, value in config.items() if not key.startswith("_")})


def diffusers_step(kit: Kit, config: Mapping[str, Any], images: int, steps: int) -> dict:
    """Seconds of a step: the network, and the scheduler's step."""
    net = network(kit, config)
    if net is None:
        return {}
    import torch
    from diffusers import DDPMScheduler

    scheduler: Any = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    size = config["sample_size"]

    @torch.no_grad()
    def run() -> None:
        x = torch.randn(images, 3, size, size)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t).sample, t, x).prev_sample

    return {"diffusers": lambda: seconds(run) / steps}


def diffusers_trainer(kit: Kit, config: Mapping[str, Any], B: int):
    """A function that makes n steps (noise, v, backward, clipping, fused AdamW) and returns their seconds."""
    net = network(kit, config)
    if net is None:
        return None
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    angles = torch.linspace(0.01, 1.56, 1000)
    x0 = torch.rand(B, 3, config["sample_size"], config["sample_size"]) * 2 - 1

    def step() -> None:
        t = torch.randint(1000, (B,))
        alpha, sigma = (f(angles[t])[:, None, None, None] for f in (torch.cos, torch.sin))
        noise = torch.randn_like(x0)
        wanted = alpha * noise - sigma * x0
        loss = torch.nn.functional.mse_loss(net(alpha * x0 + sigma * noise, t).sample, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def run(n: int) -> list[float]:
        step()
        return [seconds(step) for _ in range(n)]

    return run
