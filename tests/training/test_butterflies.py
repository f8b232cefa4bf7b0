"""The butterfly model's training from its recipe: resumed to the bit, averaged, read by diffusers."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from helpers.any_graph import params
from psycopg import sql

import pg_llm
from pg_llm.classroom import butterflies
from pg_llm.cli import cli
from pg_llm.errors import KitError
from pg_llm.files.adapter import register
from pg_llm.server.connect import maintenance, open_database

RECIPE = butterflies.recipe()
SMALL = {
    **RECIPE,
    "unet": {
        **RECIPE["unet"],
        "block_out_channels": [8, 8, 16],
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    },
    "images": 12,
    "average": {"every": 2, "decay": 0.75},
    "steps": 5,
    "train": {**RECIPE["train"], "batch_size": 4, "warmup": 1},
}


@pytest.fixture
def small(server, monkeypatch):
    """The recipe with a small network and few images; databases that begin with test_butterflies go."""
    monkeypatch.setattr(butterflies, "recipe", lambda: SMALL)
    yield
    with maintenance() as conn:
        for (name,) in conn.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'test_butterflies%'"
        ).fetchall():
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def trained(tmp_path, name: str, *steps: int | None) -> dict[str, str]:
    for each in steps:
        made = butterflies.train(
            tmp_path / name, database=f"test_butterflies_{name}", steps=each, say=lambda text: None
        )
    return made


def test_an_interrupted_training_ends_with_the_same_bytes(small, tmp_path, monkeypatch):
    whole = trained(tmp_path, "whole", None)
    trained(tmp_path, "parts", 1, 3)
    update = psycopg.Connection.execute

    def killed(self, query, *args, **options):
        if isinstance(query, str) and query.startswith("UPDATE llm_param AS mean"):
            raise KeyboardInterrupt
        return update(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "parts", None)
    monkeypatch.undo()
    monkeypatch.setattr(butterflies, "recipe", lambda: SMALL)
    assert trained(tmp_path, "parts", None) == whole
    assert sorted(whole) == [
        "butterflies.csv", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    with pytest.raises(KitError, match="at step 5, beyond 4"):
        trained(tmp_path, "parts", 4)
    with pytest.raises(KitError, match="the recipe has 5 steps, not 6"):
        trained(tmp_path, "parts", 6)
    monkeypatch.setattr(butterflies, "recipe", lambda: {**SMALL, "train": {**SMALL["train"], "lr_max": 0.5}})
    with pytest.raises(KitError, match="another recipe"):
        trained(tmp_path, "parts", 5)


def test_the_average_is_that_of_the_steps(small, tmp_path):
    """Weights after steps 0, 2 and 4, averaged in float64."""
    states = []
    for step in (1, 2, 4):
        trained(tmp_path, "mean", step)
        with contextlib.closing(open_database("test_butterflies_mean")) as conn:
            register(conn)
            states.append(params(conn, butterflies.TRAINED))
            found = params(conn, butterflies.MODEL)
            if step == 1:  # not moved yet: the weights that the training began with
                states[0] = found
    assert found.keys() == states[0].keys()
    for name, value in found.items():
        first, second, third = (state[name].astype(float) for state in states)
        mean = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        assert np.abs(value - mean).max() < 1e-6, name


def test_diffusers_reads_it(small, tmp_path, conn):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    trained(tmp_path, "read", 2)
    net = diffusers.UNet2DModel.from_pretrained(tmp_path / "read" / "unet")
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "read" / "scheduler")
    assert (scheduler.config.prediction_type, scheduler.config.beta_schedule) == (
        "v_prediction", "squaredcos_cap_v2",
    )  # fmt: skip
    conn.execute("DELETE FROM llm_model_config WHERE model = 'read'")
    pg_llm.load_model(conn, tmp_path / "read", "read", progress=False)
    image = np.random.default_rng(3).normal(size=(2, 3, 32, 32)).astype(np.float32)
    (ours,) = conn.cursor(binary=True).execute(
        "SELECT llm_eval('read', 'output', '{}', ARRAY['sample', 'timestep'], ARRAY[%s, '[3,700]'::tensor])",
        [image],
    ).fetchone()  # fmt: skip
    with torch.no_grad():
        theirs = net(torch.tensor(image), torch.tensor([3, 700])).sample.numpy()
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    (noise,) = conn.execute(
        "SELECT options ->> 'noise' FROM llm_model_config WHERE model = 'read'"
    ).fetchone()
    assert json.loads(noise)["prediction"] == "v_prediction"


def test_the_images_of_the_dataset_are_the_machines(small, tmp_path):
    trained(tmp_path, "drawn", 1)
    with contextlib.closing(open_database("test_butterflies_drawn")) as conn:
        rows = conn.execute(
            "SELECT count(*), bool_and(transpose(data, '{1,2,0}') = llm_butterfly(place - 1)) "
            "FROM (SELECT data, row_number() OVER (ORDER BY id) AS place FROM llm_dataset_tensor) AS t"
        ).fetchone()
    assert rows == (12, True)


def test_the_command_names_what_does_not_go_together(server):
    done = CliRunner().invoke(cli, ["classroom", "--butterflies", "--load"])
    assert done.exit_code == 2 and "--load trains nothing" in done.output
