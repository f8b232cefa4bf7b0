"""load_model of a diffusers folder: writes the rows of its U-Net (unet.py) and its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.files.checkpoint import CONFIG, Checkpoint, CheckpointError, Tensor, open_checkpoint, read_json
from pg_llm.files.importer import Imported, check_sizes, copy_params
from pg_llm.files.unet import CLASS_NAME, Node, current_name, unet_nodes

# diffusers' names of noise schedules, and ours.
KINDS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "squared_cosine"}
# Keys of scheduler_config.json that llm_denoise takes only with these values.
_ONLY: dict[str, tuple] = {
    "trained_betas": (None,),
    "beta_schedule": tuple(KINDS),
    "prediction_type": ("epsilon", "v_prediction"),
    "variance_type": ("fixed_small", "fixed_small_log"),
    "thresholding": (False,),
    "timestep_spacing": ("leading",),
    "steps_offset": (0,),
    "rescale_betas_zero_snr": (False,),
    "set_alpha_to_one": (True,),
}


def unet_folder(path: Path) -> Path | None:
    """The folder with the U-Net of a diffusers model or pipeline; None if path is something else."""
    for folder in (path, path / "unet"):
        try:
            config = json.loads((folder / CONFIG).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(config, dict) and str(config.get("_class_name", "")).startswith("UNet"):
            return folder
    return None


def noise_options(folder: Path) -> dict[str, Any]:
    """How a pipeline's model was trained, from its scheduler's file: the option "noise" of llm_model_config.

    Without such a file it is empty, and llm_denoise takes DDPM's defaults. Errors: CheckpointError.
    """
    file = folder.parent / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return {}
    config = read_json(file)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds {str(config)[:40]}, expected an object")
    for key, supported in _ONLY.items():
        if config.get(key, supported[0]) not in supported:
            known = " or ".join(str(value) for value in supported)
            raise CheckpointError(f"{file}: {key} is {config[key]!r}; only {known} is read")
    clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None
    return {
        "kind": KINDS[config.get("beta_schedule", "linear")],
        "steps": config.get("num_train_timesteps", 1000),
        "beta_start": config.get("beta_start", 1e-4),
        "beta_end": config.get("beta_end", 0.02),
        "prediction": config.get("prediction_type", "epsilon"),
        "clip": clip,
    }


def load_unet(
    conn: psycopg.Connection, folder: Path, model: str, ignore_surplus: bool, progress: bool
) -> Imported:
    """Imports a diffusers UNet2DModel as `model`, replacing its weights: all of it, or nothing.

    Errors: CheckpointError for config.json and for tensors that are missing, surplus or of another shape;
    psycopg.Error from the server.
    """
    with open_checkpoint(folder, as_gpt2=False) as checkpoint:
        config = json.loads(checkpoint.config or "{}")
        if config.get("_class_name") != CLASS_NAME:
            raise CheckpointError(f"{folder}: {config.get('_class_name')} is not read; {CLASS_NAME} is")
        check_sizes(checkpoint)
        nodes, noise = unet_nodes(config), noise_options(folder)
        tensors = _chosen(folder, checkpoint, nodes, ignore_surplus)
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            schema = catalog.schema(conn)
            write_graph(cursor, schema, model, {"unet": config, "noise": noise}, nodes)
            copy_params(cursor, schema, model, tensors, progress)
    return Imported(len(tensors), sum(tensor.size for _, tensor in tensors))


def _chosen(
    folder: Path, checkpoint: Checkpoint, nodes: list[Node], ignore_surplus: bool
) -> list[tuple[str, Tensor]]:
    """Each parameter's tensor. A file of former versions has its attention weights under other names."""
    stored = {current_name(tensor.name): tensor for tensor in checkpoint.tensors}
    shapes = {node.name: tuple(node.attrs["shape"]) for node in nodes if node.op == "param"}
    wrong = [f"{name} is missing" for name in shapes if name not in stored]
    if not ignore_surplus:
        wrong += [f"{name} is surplus" for name in stored if name not in shapes]
    for name, shape in shapes.items():
        if name in stored and _squeezed(stored[name], shape) != shape:
            wrong.append(f"{name} has the shape {stored[name].shape}, config.json requires {shape}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{folder}: {'; '.join(wrong[:5])}{more}")
    return [(name, _as_shape(stored[name], shape)) for name, shape in shapes.items()]


def _squeezed(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Former versions stored a linear layer of attention as a convolution of 1 x 1."""
    return tensor.shape[:2] if len(shape) == 2 and tensor.shape[2:] in ((1, 1), (1,)) else tensor.shape


def _as_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor(tensor.name, tensor.dtype, shape, tensor.load)


def write_graph(cursor, schema, model: str, options: dict[str, Any], nodes: list[Node]) -> None:
    """The model's rows, or an error if it exists with others; its weights are removed."""
    config = options["unet"]
    channels = config["block_out_channels"]
    register = sql.SQL(
        "INSERT INTO {}.llm_model_config "
        "(model, n_layer, n_head, d_model, d_ff, n_positions, vocab, options) "
        "VALUES (%s, %s, 1, %s, %s, 1, 1, %s) ON CONFLICT DO NOTHING"
    )
    width = config.get("time_embedding_dim") or 4 * channels[0]
    values = [model, len(channels), channels[0], width, json.dumps(options)]
    cursor.execute(register.format(schema), values)
    stored = sql.SQL("SELECT name, op, inputs, attrs FROM {}.llm_graph WHERE model = %s ORDER BY id")
    found = cursor.execute(stored.format(schema), [model]).fetchall()
    if not found:
        _insert_nodes(cursor, schema, model, nodes)
    elif [Node(*row) for row in found] != nodes:
        raise CheckpointError(
            f'the model "{model}" exists with other nodes than this U-Net\'s; choose another name, or '
            "DELETE FROM llm_model_config WHERE model = ..."
        )
    cursor.execute(sql.SQL("DELETE FROM {}.llm_param WHERE model = %s").format(schema), [model])


def _insert_nodes(cursor, schema, model: str, nodes: list[Node]) -> None:
    """In one statement, so that the whole graph is checked at its end."""
    statement = sql.SQL(
        "INSERT INTO {}.llm_graph (model, name, op, inputs, attrs) "
        "SELECT %s, n ->> 0, n ->> 1, ARRAY(SELECT jsonb_array_elements_text(n -> 2)), n -> 3 "
        "FROM jsonb_array_elements(%s::text::jsonb) WITH ORDINALITY AS nodes (n, i) ORDER BY i"
    )
    cursor.execute(statement.format(schema), [model, json.dumps(nodes)])
