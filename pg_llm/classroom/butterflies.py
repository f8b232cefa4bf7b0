"""Makes the butterfly model from its recipe alone: images, graph with its loss, training, files.

The U-Net that is trained has its loss as rows (Ho et al., 2020): an image comes from the dataset, a time step
and noise are drawn by nodes, and what is predicted is the noise, or v (Salimans and Ho, 2022). A second model
has the same U-Net and the exponential moving average of its weights, which draws better than a single state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from tqdm.auto import tqdm

from pg_llm import catalog, classroom
from pg_llm.classroom import train as stories
from pg_llm.files.convert import save_safetensors
from pg_llm.files.unet import WEIGHTS, unet_nodes
from pg_llm.files.unet_import import KINDS, write_graph

MODEL, TRAINED = "butterflies", "butterflies-training"
PIECE = 1000  # images per transaction

# The time step t is drawn, and the noisy image, alpha(t) x0 + sigma(t) noise, takes the place of the input.
LOSS = """
UPDATE llm_graph SET op = 'randint', attrs = jsonb_build_object('shape', '["B"]'::jsonb, 'high', {steps})
    WHERE model = {model} AND name = 'timestep';
UPDATE llm_graph SET op = 'add', inputs = '{{signal,disturbance}}', attrs = '{{}}'
    WHERE model = {model} AND name = 'sample';
INSERT INTO llm_graph (model, name, op, attrs)
    SELECT {model}, name, 'constant', jsonb_build_object('value', values)
    FROM (SELECT jsonb_agg(sqrt(alpha_cumprod) ORDER BY step) AS alphas,
            jsonb_agg(sqrt(1 - alpha_cumprod) ORDER BY step) AS sigmas
        FROM llm_noise_schedule({kind}, {steps})) AS schedule,
        LATERAL (VALUES ('alphas', alphas), ('sigmas', sigmas)) AS constants (name, values);
INSERT INTO llm_graph (model, name, op, attrs)
    VALUES ({model}, 'x0', 'input', {shape}), ({model}, 'noise', 'normal', {shape});
INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES
    ({model}, 'alpha_of_step', 'gather_rows', '{{alphas,timestep}}', '{{}}'),
    ({model}, 'sigma_of_step', 'gather_rows', '{{sigmas,timestep}}', '{{}}'),
    ({model}, 'alpha', 'reshape', '{{alpha_of_step}}', '{{"shape": ["B", 1, 1, 1]}}'),
    ({model}, 'sigma', 'reshape', '{{sigma_of_step}}', '{{"shape": ["B", 1, 1, 1]}}'),
    ({model}, 'signal', 'mul', '{{x0,alpha}}', '{{}}'),
    ({model}, 'disturbance', 'mul', '{{noise,sigma}}', '{{}}')"""
TARGETS = {
    "epsilon": """
UPDATE llm_graph SET inputs = array_replace(inputs, 'target', 'noise')
    WHERE model = {model} AND name = 'error'""",
    "v_prediction": """
INSERT INTO llm_graph (model, name, op, inputs) VALUES
    ({model}, 'noise_part', 'mul', '{{noise,alpha}}'), ({model}, 'image_part', 'mul', '{{x0,sigma}}');
UPDATE llm_graph SET op = 'sub', inputs = '{{noise_part,image_part}}', attrs = '{{}}'
    WHERE model = {model} AND name = 'target'""",
}


def recipe() -> dict:
    """The contents of butterflies.json: network, noise, images, average, and the arguments of llm_train."""
    return json.loads((classroom.FOLDER / "butterflies.json").read_text("utf-8"))


def add_noise_loss(conn: psycopg.Connection, model: str) -> None:
    """Turns a U-Net's graph into that of its training: inputs x0 (B,C,H,W), output loss.

    Time step and noise are drawn by nodes; the schedule and what is predicted are those of the model's option
    `noise`. Example: add_noise_loss(conn, "my-unet")
    """
    query = "SELECT options -> 'noise', g.attrs FROM llm_model_config JOIN llm_graph AS g USING (model) "
    noise, shape = catalog.row(conn, query + "WHERE model = %s AND g.name = 'sample'", [model])
    values: dict[str, Any] = {
        "model": model, "steps": noise.get("steps", 1000), "kind": noise.get("kind", "linear"),
        "shape": json.dumps(shape),
    }  # fmt: skip
    script = sql.SQL(LOSS + ";" + TARGETS[noise.get("prediction", "epsilon")])
    with conn.transaction():
        conn.execute("SET CONSTRAINTS ALL DEFERRED")
        conn.execute(script.format(**{key: sql.Literal(value) for key, value in values.items()}))


def train(
    folder: Path,
    *,
    database: str = "train_butterflies",
    steps: int | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Trains the butterfly model and writes it in diffusers' layout; returns the files' SHA-256 by name.

    steps: stops there, for a trial; a further call resumes. fresh: discards the earlier training.
    Errors: KitError for more steps than the recipe's, or fewer than are done already.
    Example: train(Path("butterflies"), steps=20)
    """
    made_by = recipe()
    last = stories.last_step(made_by, steps)
    folder.mkdir(parents=True, exist_ok=True)  # fails before the training if it cannot be created
    with stories.workshop(database, fresh) as conn:
        say(f"database {database}: {_begin(conn, made_by, last)}")
        with stories.progress(database, TRAINED, last):
            _run(conn, made_by, last)
        return export(conn, made_by, folder)


def export(conn: psycopg.Connection, made_by: dict, folder: Path) -> dict[str, str]:
    """Writes the averaged model as a pipeline of diffusers, and the log; equal weights give equal bytes."""
    kinds = {ours: name for name, ours in KINDS.items()}
    noise = made_by["noise"]
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": noise["steps"],
        "beta_schedule": kinds[noise["kind"]],
        "prediction_type": noise["prediction"],
        "clip_sample": True,
        "clip_sample_range": noise["clip"],
    }
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    texts = {
        "model_index.json": index,
        "scheduler/scheduler_config.json": scheduler,
        "unet/config.json": made_by["unet"],
    }
    for name, content in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    query = "SELECT name, data FROM llm_param JOIN llm_graph USING (model, name) WHERE model = %s ORDER BY id"
    weights = f"unet/{WEIGHTS}.safetensors"
    save_safetensors(folder / weights, dict(conn.execute(query, [MODEL]).fetchall()))
    stories.write_log(conn, TRAINED, folder / "butterflies.csv")
    return {name: classroom.sha256(folder / name) for name in [*texts, weights, "butterflies.csv"]}


# -- stages ------------------------------------------------------------------------------


def _begin(conn: psycopg.Connection, made_by: dict, last: int) -> str:
    """Draws the images and writes the two models unless they exist; returns the state of the training."""
    if there := stories.state(conn, made_by, TRAINED, last):
        return there
    _draw(conn, made_by)
    options = {"unet": made_by["unet"], "noise": made_by["noise"]}
    with conn.transaction(), conn.cursor() as cursor:
        for model in (MODEL, TRAINED):
            write_graph(cursor, catalog.schema(conn), model, options, unet_nodes(made_by["unet"]))
        add_noise_loss(conn, TRAINED)
        register = "UPDATE llm_model_config SET recipe = %s::jsonb WHERE model = %s"
        conn.execute(register, [json.dumps(made_by["train"]), TRAINED])
        numbers = catalog.value(conn, "SELECT llm_init_model(%s, %s)", [TRAINED, made_by["seed"]])
        copy = (
            "INSERT INTO llm_param (model, name, data) SELECT %s, name, data FROM llm_param WHERE model = %s"
        )
        conn.execute(copy, [MODEL, TRAINED])
    return f"{made_by['images']} images drawn, {numbers} random numbers, {last} steps to go"


def _draw(conn: psycopg.Connection, made_by: dict) -> None:
    """Butterflies as rows of a dataset, each a tensor x0 (3,32,32) from -1 to 1."""
    dataset = made_by["train"]["dataset"]
    have = catalog.value(conn, "SELECT count(*) FROM llm_dataset WHERE dataset = %s", [dataset])
    with tqdm(total=made_by["images"], initial=have, unit=" images", delay=2, leave=False) as bar:
        while have < made_by["images"]:
            n = min(PIECE, made_by["images"] - have)
            conn.execute(
                "INSERT INTO llm_dataset (dataset, names, tensors) "
                "SELECT %s, '{x0}', ARRAY[transpose(llm_butterfly(seed), '{2,0,1}')] "
                "FROM generate_series(%s::bigint, %s) AS seed",
                [dataset, have, have + n - 1],
            )
            have += n
            bar.update(n)
    conn.execute("VACUUM (ANALYZE) llm_dataset")


def _run(conn: psycopg.Connection, made_by: dict, last: int) -> None:
    """Trains, and moves the average after every few steps.

    The average's own step says whether that has been done, so an interruption between the two changes no bit.
    """
    every, decay = made_by["average"]["every"], made_by["average"]["decay"]
    train_until = "CALL llm_train_loop(%s, %s, until_step => %s, notice_every => 0)"
    move = (
        "UPDATE llm_param AS mean "
        "SET data = mean.data * %s::float8 + now.data * (1 - %s::float8), step = now.step "
        "FROM llm_param AS now WHERE mean.model = %s AND now.model = %s AND now.name = mean.name"
    )
    while True:
        step = stories.trained_steps(conn, TRAINED) or 0
        if step % every == 0 and (stories.trained_steps(conn, MODEL) or 0) < step:
            conn.execute(move, [decay, decay, MODEL, TRAINED])
        if step >= last:
            break
        conn.execute(train_until, [TRAINED, made_by["steps"], min(last, (step // every + 1) * every)])
