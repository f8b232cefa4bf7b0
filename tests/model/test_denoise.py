"""Noise schedules and the reverse process: diffusers' with the same noises."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest

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


@pytest.mark.parametrize(
    "kind, theirs", [("linear", "linear"), ("scaled_linear",) * 2, ("squared_cosine", "squaredcos_cap_v2")]
)
@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_schedules(conn, kind, theirs, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(steps, beta_schedule=theirs)
    query = "SELECT beta, alpha, alpha_cumprod FROM llm_noise_schedule(%s, %s) ORDER BY step"
    found = np.array(conn.execute(query, [kind, steps]).fetchall()).T
    for got, expected in zip(
        found, (scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod), strict=True
    ):
        np.testing.assert_allclose(got, expected.numpy(), rtol=2e-5, atol=1e-9)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(4)
    return diffusers.UNet2DModel(**CONFIG)


def load(conn, net, folder, **scheduler):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'noisy'")
    net.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    pg_llm.load_model(conn, folder, "noisy", progress=False)


@pytest.mark.parametrize(
    "sampler, eta, steps, how",
    [
        ("ddpm", 0, 7, {}),
        ("ddpm", 0, 10, {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}),
        ("ddpm", 0, 20, {"num_train_timesteps": 20, "clip_sample": False}),
        ("ddim", 0, 7, {"clip_sample": False}),
        ("ddim", 0.7, 5, {"prediction_type": "v_prediction", "clip_sample_range": 2.0}),
    ],
)
def test_reverse_process(conn, net, tmp_path, sampler, eta, steps, how):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    load(conn, net, tmp_path, **how)
    read = conn.cursor(binary=True)
    rows = read.execute(
        "SELECT * FROM llm_denoise('noisy', 3, %s, %s, %s, 2)", [steps, sampler, eta]
    ).fetchall()
    assert [row[0] for row in rows] == list(range(steps + 1))

    def noise(step: int):
        query = "SELECT llm_noise(3, %s, '{2,3,8,8}')"
        return torch.from_numpy(conn.cursor(binary=True).execute(query, [step]).fetchone()[0].copy())

    kind = {"ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler}[sampler]
    scheduler = kind(**how)
    scheduler.set_timesteps(steps)
    x = noise(0)
    np.testing.assert_array_equal(rows[0][2], x.numpy())
    with torch.no_grad():
        for (step, t, image), expected in zip(rows[1:], scheduler.timesteps, strict=True):
            assert t == expected
            output = net(x, expected).sample
            given = {"eta": eta, "variance_noise": noise(step)} if sampler == "ddim" else {}
            with pytest.MonkeyPatch.context() as patch:
                if sampler == "ddpm":  # it draws its own noise, but in the last step
                    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
                    patch.setattr(module, lambda *_, step=step, **__: noise(step))
                x = scheduler.step(output, expected, x, **given).prev_sample
            assert np.abs(image - x.numpy()).max() < 2e-5 * max(1, x.abs().max()), step
    again = "SELECT image FROM llm_denoise('noisy', 3, %s, %s, %s, 2) WHERE step = %s"
    (image,) = conn.cursor(binary=True).execute(again, [steps, sampler, eta, steps]).fetchone()
    np.testing.assert_array_equal(image, rows[-1][2])


def test_written_as_one_query(conn, net, tmp_path):
    """The same images, bit for bit, by a recursive query over llm_eval."""
    load(conn, net, tmp_path)
    query = """
    WITH RECURSIVE process (step, x) AS (
        SELECT 0, llm_noise(1, 0, '{1,3,8,8}')
        UNION ALL
        SELECT plan.step, next.x
        FROM process JOIN llm_denoise_plan('noisy', 4) AS plan ON plan.step = process.step + 1,
            LATERAL (SELECT llm_eval('noisy', 'output', '{}', ARRAY['sample', 'timestep'],
                ARRAY[x, ones('{1}') * plan.t::float8]) AS output) AS model,
            LATERAL (SELECT maximum(minimum((x * image_x) + (output * image_output), 1), -1) AS image) AS g,
            LATERAL (SELECT (image * next_image) + (x * next_x)
                + (((x * noise_x) + (output * noise_output)) * next_noise) AS mean) AS mean,
            LATERAL (SELECT CASE random WHEN 0 THEN mean
                ELSE mean + (llm_noise(1, plan.step, '{1,3,8,8}') * random) END AS x) AS next
    )
    SELECT count(*), bool_and(process.x = d.image)
    FROM process JOIN llm_denoise('noisy', 1, 4) AS d USING (step)
    """
    assert conn.execute(query).fetchone() == (5, True)


def test_refusals(conn, net, tmp_path):
    load(conn, net, tmp_path)
    for expression, says in (
        ("llm_denoise('none')", 'no model "none"'),
        ("llm_denoise('gpt2-small')", 'has no input "sample"'),
        ("llm_denoise('noisy', steps => 1001)", "trained with 1000"),
        ("llm_denoise('noisy', steps => NULL)", "trained with 1000"),
        ("llm_denoise('noisy', sampler => 'euler')", '"euler" is not known'),
        ("llm_denoise('noisy', eta => 2)", "from 0 to 1"),
        ("llm_noise_schedule('cosine')", '"cosine" is not known'),
        ("llm_noise_schedule(steps => 0)", "from 1 to 100000"),
        ("llm_noise_schedule(beta_end => 'NaN')", "from 0 to 1"),
    ):
        with pytest.raises(psycopg.Error, match=says):
            conn.execute(f"SELECT * FROM {expression}")


def test_rows_leave_as_they_are_made_and_a_cancel_ends_it(conn, connect, net, tmp_path):
    """The first rows arrive while the statement computes; a cancel ends it, and the session goes on."""
    load(conn, net, tmp_path)
    rows = conn.cursor().stream("SELECT step, image FROM llm_denoise('noisy', 1, 1000)")
    assert next(rows)[0] == 0
    connect().execute("SELECT pg_cancel_backend(%s)", [conn.info.backend_pid])
    seen = 0
    with pytest.raises(psycopg.errors.QueryCanceled):
        for step, _ in rows:
            seen = step
    assert seen < 1000
    again = "SELECT step FROM llm_denoise('noisy', 1, 2) ORDER BY step"
    assert conn.execute(again).fetchall() == [(0,), (1,), (2,)]


def test_a_cursor_computes_what_is_fetched(conn, net, tmp_path):
    """A step that fails does so when its row is fetched, and the rows before it have been read."""
    load(conn, net, tmp_path)
    failing = (
        "SELECT step, image, 1 / (3 - step) AS one FROM llm_denoise('noisy', 1, 1000)"  # fails at step 3
    )
    with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
        cursor = conn.cursor("steps")
        cursor.itersize = 1
        cursor.execute(failing)
        assert [cursor.fetchone()[0] for _ in range(3)] == [0, 1, 2]
        cursor.fetchone()
