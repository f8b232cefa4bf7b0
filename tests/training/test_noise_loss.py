"""A denoising loss as rows: diffusers' U-Net trained from images; nodes draw its noises and time steps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.any_graph import add_rows, logged, params, torch_steps

import pg_llm
from pg_llm.classroom import butterflies

CONFIG = {
    "sample_size": 8,
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
STEP = (
    "SELECT llm_train('unet', 1, lr_max => 0.003, warmup => 0, eps => 1e-3, dropout_p => 0, batch_size => 3,"
    " seed => 5, dataset => 'images', trace => true)"
)
DRAWN = (
    "SELECT name, data FROM llm_tensor_rt WHERE run = (SELECT max(run) FROM llm_run)"
    " AND name IN ('timestep', 'noise', 'sample')"
)


@pytest.mark.parametrize("kind", butterflies.TARGETS)
def test_two_steps_equal_pytorch(conn, tmp_path, kind):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(6)
    net = diffusers.UNet2DModel(**CONFIG)
    net.save_pretrained(tmp_path)
    net.double()
    conn.execute("DELETE FROM llm_train_run")
    conn.execute("DELETE FROM llm_model_config WHERE model = 'unet'")
    pg_llm.load_model(conn, tmp_path, "unet", progress=False)
    noise = {"kind": "squared_cosine", "steps": 1000, "prediction": kind}
    conn.execute(
        "UPDATE llm_model_config SET options = options || jsonb_build_object('noise', %s::jsonb) "
        "WHERE model = 'unet'",
        [json.dumps(noise)],
    )
    butterflies.add_noise_loss(conn, "unet")
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (5, 3, 8, 8)).astype(np.float32)
    ids = add_rows(conn, "images", [{"x0": image} for image in images])
    draws = []
    for _ in range(2):
        conn.execute(STEP)
        draws.append({k: v.copy() for k, v in conn.cursor(binary=True).execute(DRAWN).fetchall()})
    assert not np.array_equal(draws[0]["noise"], draws[1]["noise"])
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    log, steps = logged(conn, "unet"), iter(draws)

    def loss_of(batch):
        draw = next(steps)
        x0 = torch.tensor(images[[ids.index(i) for i in batch]])
        t, noise = torch.tensor(draw["timestep"]).long(), torch.tensor(draw["noise"])
        noisy = scheduler.add_noise(x0, noise, t)
        assert np.abs(noisy.numpy() - draw["sample"]).max() < 1e-5
        target = noise if kind == "epsilon" else scheduler.get_velocity(x0, noise, t)
        return torch.nn.functional.mse_loss(net(noisy.double(), t).sample, target.double())

    weights = dict(net.named_parameters())
    expected = torch_steps(torch, weights, loss_of, log, 1, lr=0.003, eps=1e-3)
    for (_, loss, norm, _, _), found in zip(log, expected, strict=True):
        assert (loss, norm) == pytest.approx(found, rel=1e-4)
    for name, found in params(conn, "unet").items():
        difference = np.abs(found - weights[name].detach().numpy()).max()
        assert difference < 3e-5, (name, difference)
