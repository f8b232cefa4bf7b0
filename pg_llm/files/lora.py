"""LoRA adapters of PEFT: load_adapter(conn, folder, base, model) and save_adapter(conn, model, folder).

The rows of such a model are made by _llm_lora_fork (extension/sql/14_lora.sql), under PEFT's names without
the prefix; this module reads and writes the two files of an adapter's folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.files.checkpoint import Checkpoint, CheckpointError, Tensor, open_checkpoint, read_json
from pg_llm.files.convert import replacing, save_safetensors
from pg_llm.files.importer import Imported, copy_params
from pg_llm.files.layout import is_buffer, plain_name, transposed

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
# A and B of a product or an embedding; state dicts that PEFT itself did not save name the adapter after them.
_PRODUCT = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(\.\w+)?\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<half>[AB])(\.\w+)?")
# Of settings that make an adapter compute something else than scale * B A x.
_OTHERS = [
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "target_parameters",
    "trainable_token_indices", "layer_replication", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config",
]  # fmt: skip
# init_lora_weights that leave the base as it is; others (pissa, olora …) change it when PEFT loads.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal")
_MERGE = "PEFT's merge_and_unload() makes an ordinary checkpoint of it, which load_model reads"


def load_adapter(
    conn: psycopg.Connection, folder: str | Path, base: str, model: str, *, progress: bool = True
) -> Imported:
    """Makes `model` of the model `base` and a LoRA adapter of PEFT: a folder with adapter_config.json.

    The weights of base are shared, not copied, and frozen: llm_train then trains the adapter. All or nothing,
    as load_model. Errors: CheckpointError for the files, psycopg.Error if base has no such modules or model
    exists. Example: load_adapter(pg_llm.connect(), "my-adapter", "gpt2-small", "gpt2-tuned")
    """
    folder = Path(folder).expanduser()
    config = _read_config(folder)
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: no {' or '.join(_WEIGHTS)} in it")
    with open_checkpoint(weights, as_gpt2=False) as checkpoint:
        named = _named(weights, checkpoint)
        modules = _modules(weights, config, named)
        own = [name for name in named if ".lora_" not in name]
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            fork = catalog.qualified(conn, "SELECT {0}._llm_lora_fork(%s, %s, %s::text::jsonb, %s::text[])")
            cursor.execute(fork, [base, model, json.dumps(modules), own])
            shapes = catalog.qualified(conn, "SELECT name, shape FROM {0}.llm_param_shapes(%s)")
            _check_shapes(weights, base, named, dict(cursor.execute(shapes, [model]).fetchall()))
            copy_params(cursor, catalog.schema(conn), model, list(named.items()), progress)
    return Imported(len(named), sum(tensor.size for tensor in named.values()))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(f'{path}: peft_type is {json.dumps(kind)}, expected "LORA"; {_MERGE}')
    for setting in _OTHERS:
        if config.get(setting):
            raise CheckpointError(
                f"{path}: {setting} is {json.dumps(config[setting])}; expected LoRA without it; {_MERGE}"
            )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {json.dumps(init)}, which may change the base's weights; "
            f"expected true, false or one of {', '.join(_PLAIN_INITS)}; {_MERGE}"
        )
    return config


def _named(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors under the names of llm_graph, which are PEFT's without prefixes."""
    named: dict[str, Tensor] = {}
    for tensor in checkpoint.tensors:
        name = plain_name(tensor.name.removeprefix(_PREFIX))
        if is_buffer(name):
            continue
        if match := _EMBEDDING.fullmatch(name):
            if match["half"] == "A":  # (r,V) there, a table (V,r) here
                tensor = transposed(tensor)
        else:
            match = _PRODUCT.fullmatch(name)
        if match:
            name = f"{match['module']}.lora_{match['half']}.weight"
        else:
            name = re.sub(r"\.(base_layer|modules_to_save\.\w+)\.(?=\w+$)", ".", name)
        if name in named:
            raise CheckpointError(f'{path}: two tensors are "{name}"; expected one adapter')
        named[name] = tensor
    return named


def _modules(path: Path, config: dict[str, Any], named: dict[str, Tensor]) -> list[dict[str, Any]]:
    """What _llm_lora_fork expects: name, rank, scale and dropout of each module that has A and B."""
    halves = [match for match in map(_PRODUCT.fullmatch, named) if match]
    modules = []
    for module in dict.fromkeys(match["module"] for match in halves):
        a, b = (named.get(f"{module}.lora_{half}.weight") for half in "AB")
        if a is None or b is None or len(b.shape) != 2:
            found = "no lora_A" if a is None else "no lora_B" if b is None else f"a lora_B {b.shape}"
            raise CheckpointError(
                f'{path}: module "{module}" has {found}; '
                "expected matrices A (rank, inputs) and B (outputs, rank)"
            )
        rank = b.shape[1]
        alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
        dropout = config.get("lora_dropout") or 0
        if rank < 1 or not all(isinstance(x, int | float) for x in (alpha, dropout)):
            raise CheckpointError(
                f'{path}: module "{module}" has rank {rank}, lora_alpha {alpha!r}, lora_dropout {dropout!r}; '
                "expected numbers, and a rank of at least 1"
            )
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        modules.append({"module": module, "rank": rank, "scale": scale, "dropout": dropout})
    if not modules:
        raise CheckpointError(f"{path}: no lora_A and lora_B in it")
    return modules


def _pattern(patterns: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """PEFT's rule for alpha_pattern: the first key that matches the module's name, or the end of it."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", f"transformer.{module}"):
            return value
    return otherwise


def _check_shapes(path: Path, base: str, named: dict[str, Tensor], shapes: dict[str, list[int]]) -> None:
    for name, tensor in named.items():
        if name not in shapes:
            raise CheckpointError(
                f'{path}: tensor "{tensor.name}" belongs to no parameter of model "{base}"; expected '
                f"lora_A and lora_B of its modules, or its own weights and biases; {_MERGE}"
            )
        if tensor.shape != tuple(shapes[name]):
            raise CheckpointError(
                f'{path}: tensor "{tensor.name}" is {tensor.shape}, model "{base}" requires '
                f"{tuple(shapes[name])}; load the adapter over the model that it was trained on"
            )


def save_adapter(
    conn: psycopg.Connection, model: str, folder: str | Path, *, base: str | None = None
) -> None:
    """Writes the LoRA of a model as PEFT does: adapter_config.json and adapter_model.safetensors in folder.

    Other parameters that are trained go with it, whole modules (modules_to_save) or biases. The folder is
    made if need be; files of these names are replaced. base: the name or path of the base model for PEFT's
    AutoPeftModel. Errors: CheckpointError. Example: save_adapter(conn, "gpt2-tuned", "my-adapter")
    """
    folder = Path(folder).expanduser()
    modules = (  # in the order of their rows in the graph, so that the same adapter is the same file
        "SELECT module, rank, alpha, dropout, embeds, weight FROM {0}.llm_lora AS l "
        "JOIN {0}.llm_graph AS g ON g.model = l.model AND g.name = l.node WHERE l.model = %s ORDER BY g.id"
    )
    trained = (
        "SELECT name FROM {0}.llm_graph WHERE model = %s AND op = 'param' "
        """AND NOT attrs @> '{{"trainable": false}}' AND name !~ '\\.lora_[AB]\\.weight$' ORDER BY id"""
    )
    params = "SELECT g.name FROM {0}.llm_graph AS g WHERE model = %s AND op = 'param'"
    data = "SELECT name, data FROM {0}.llm_param WHERE model = %s AND name = ANY(%s)"
    with conn.transaction(), conn.cursor(row_factory=tuple_row, binary=True) as cursor:
        loras = cursor.execute(catalog.qualified(conn, modules), [model]).fetchall()
        if not loras:
            raise CheckpointError(
                f'model "{model}" has no LoRA; SELECT DISTINCT model FROM llm_lora lists models'
            )
        own = [name for (name,) in cursor.execute(catalog.qualified(conn, trained), [model])]
        every = {name for (name,) in cursor.execute(catalog.qualified(conn, params), [model])}
        bias, saved = _own(model, own, every, {row[0] for row in loras})
        wanted = own + [f"{row[0]}.lora_{half}.weight" for row in loras for half in "AB"]
        tensors: dict[str, np.ndarray] = dict(
            cursor.execute(catalog.qualified(conn, data), [model, wanted]).fetchall()
        )
    arrays: dict[str, np.ndarray] = {}
    for module, _, _, _, embeds, _ in loras:
        a, b = (tensors.pop(f"{module}.lora_{half}.weight") for half in "AB")
        name = _peft_name(module)
        if embeds:
            arrays |= {f"{name}.lora_embedding_A": np.ascontiguousarray(a.T), f"{name}.lora_embedding_B": b}
        else:
            arrays |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    in_lora = {f"{row[0]}.bias" for row in loras}
    for name, array in tensors.items():
        peft = _peft_name(name)
        arrays[peft.removesuffix("bias") + "base_layer.bias" if name in in_lora else peft] = array
    config = _config(loras, bias, saved, base)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _WEIGHTS[0]) as part:
        save_safetensors(part, arrays)
    with replacing(folder / _CONFIG) as part:
        part.write_text(json.dumps(config, indent=2))


def _own(model: str, own: list[str], every: set[str], modules: set[str]) -> tuple[str, list[str]]:
    """PEFT's settings bias and modules_to_save for the parameters that are trained whole."""
    biases = {name for name in every if name.endswith(".bias")}
    for bias, names in (("all", biases), ("lora_only", {name for name in biases if name[:-5] in modules})):
        if names and names == set(own):
            return bias, []
    saved = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    lacking = [name for name in every if name.rpartition(".")[0] in saved and name not in own]
    if lacking or modules & set(saved):
        raise CheckpointError(
            f'model "{model}": of "{(lacking or own)[0].rpartition(".")[0]}" a part is trained; PEFT saves '
            "whole modules, all biases, or those of modules with LoRA: freeze the part, or merge the model"
        )
    return "none", saved


def _peft_name(name: str) -> str:
    return _PREFIX + ("" if name.startswith("lm_head") else "transformer.") + name


def _config(loras: list, bias: str, saved: list[str], base: str | None) -> dict[str, Any]:
    def number(alpha: float):  # alpha / rank is what a row stores
        rounded = float(f"{alpha:.12g}")
        return int(rounded) if rounded.is_integer() else rounded

    ranks = {module: rank for module, rank, *_ in loras}
    alphas = {module: number(alpha) for module, _, alpha, *_ in loras}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": max(row[3] for row in loras),
        "target_modules": list(ranks),
        "rank_pattern": _exceptions(ranks, rank),
        "alpha_pattern": _exceptions(alphas, alpha),
        "fan_in_fan_out": True,
        "bias": bias,
        "modules_to_save": saved or None,
        "inference_mode": True,
    }


def _exceptions(values: dict[str, Any], usual: Any) -> dict[str, Any]:
    return {module: value for module, value in values.items() if value != usual}
