"""A denoising loss as rows: diffusers' U-Net trained from images; nodes draw its noises and time steps."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.any_graph import add_rows, logged, params, torch_steps

import pg_llm

CONFIG = {
    "sample_size": 8,
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
# The image x0 is what a row gives; the time step and the noise are drawn, and the noisy image is computed.
NOISE = """
UPDATE llm_graph SET op = 'randint', attrs = '{"shape": ["B"], "high": 1000}'
    WHERE (model, name) = ('unet', 'timestep');
UPDATE llm_graph SET op = 'add', inputs = '{signal,disturbance}', attrs = '{}'
    WHERE (model, name) = ('unet', 'sample');
INSERT INTO llm_graph (model, name, op, inputs, attrs)
    SELECT 'unet', name, 'constant', '{}', jsonb_build_object('value', table_of_steps)
    FROM (SELECT jsonb_agg(sqrt(alpha_cumprod) ORDER BY step) AS alphas,
            jsonb_agg(sqrt(1 - alpha_cumprod) ORDER BY step) AS sigmas
        FROM llm_noise_schedule('squared_cosine', 1000)) AS schedule,
        LATERAL (VALUES ('alphas', alphas), ('sigmas', sigmas)) AS tables (name, table_of_steps);
INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES
    ('unet', 'x0', 'input', '{}', '{"shape": ["B", 3, 8, 8]}'),
    ('unet', 'noise', 'normal', '{}', '{"shape": ["B", 3, 8, 8]}'),
    ('unet', 'alpha_of_step', 'gather_rows', '{alphas,timestep}', '{}'),
    ('unet', 'sigma_of_step', 'gather_rows', '{sigmas,timestep}', '{}'),
    ('unet', 'alpha', 'reshape', '{alpha_of_step}', '{"shape": ["B", 1, 1, 1]}'),
    ('unet', 'sigma', 'reshape', '{sigma_of_step}', '{"shape": ["B", 1, 1, 1]}'),
    ('unet', 'signal', 'mul', '{x0,alpha}', '{}'),
    ('unet', 'disturbance', 'mul', '{noise,sigma}', '{}');
"""
TARGET = {
    "epsilon": "UPDATE llm_graph SET inputs = array_replace(inputs, 'target', 'noise') WHERE model = 'unet'",
    "v_prediction": """
INSERT INTO llm_graph (model, name, op, inputs) VALUES
    ('unet', 'noise_part', 'mul', '{noise,alpha}'), ('unet', 'image_part', 'mul', '{x0,sigma}');
UPDATE llm_graph SET op = 'sub', inputs = '{noise_part,image_part}', attrs = '{}'
    WHERE (model, name) = ('unet', 'target')""",
}
STEP = (
    "SELECT llm_train('unet', 1, lr_max => 0.003, warmup => 0, eps => 1e-3, dropout_p => 0, batch_size => 3,"
    " seed => 5, dataset => 'images', trace => true)"
)
DRAWN = (
    "SELECT name, data FROM llm_tensor_rt WHERE run = (SELECT max(run) FROM llm_run)"
    " AND name IN ('timestep', 'noise', 'sample')"
)


@pytest.mark.parametrize("kind", TARGET)
def test_two_steps_equal_pytorch(conn, tmp_path, kind):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(6)
    net = diffusers.UNet2DModel(**CONFIG)
    net.save_pretrained(tmp_path)
    net.double()
    conn.execute("DELETE FROM llm_train_run")
    conn.execute("DELETE FROM llm_model_config WHERE model = 'unet'")
    pg_llm.load_model(conn, tmp_path, "unet", progress=False)
    with conn.transaction():
        conn.execute("SET CONSTRAINTS ALL DEFERRED")
        conn.execute(NOISE + TARGET[kind])
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
