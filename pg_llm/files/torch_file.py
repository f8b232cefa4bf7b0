"""PyTorch's files: a state_dict, alone or in a training checkpoint beside the model's dimensions.

Nothing in a file is executed: torch makes tensors and plain containers only (weights_only). An object of
another class, such as build-nanogpt's GPTConfig, becomes a StandIn that keeps its attributes.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from functools import partial
from pathlib import Path

from pg_llm.files.checkpoint import Checkpoint, CheckpointError, Tensor

# Where training programs put the weights, and the dimensions.
_WEIGHTS = ("model", "state_dict", "model_state_dict", "model_state", "module", "weights", "net")
_CONFIGS = ("model_args", "model_config", "config", "cfg", "hyper_parameters", "args")
# HuggingFace's name of each dimension: nanoGPT's (its own for three), LLMs-from-scratch's.
_DIMENSIONS = {
    "n_layer": ("n_layer", "n_layers", "num_layers"),
    "n_head": ("n_head", "n_heads", "num_heads"),
    "n_embd": ("n_embd", "emb_dim", "d_model"),
    "n_positions": ("n_positions", "block_size", "context_length"),
    "vocab_size": ("vocab_size",),
    "bias": ("bias",),
    "qkv_bias": ("qkv_bias",),
    "activation_function": ("activation_function",),
    "layer_norm_epsilon": ("layer_norm_epsilon",),
}
# Modules of values that are made by a call with arguments, and contain no weights.
_VALUES = ("numpy", "pathlib", "datetime", "collections")
_ADVICE = "save the weights alone: torch.save(model.state_dict(), 'weights.pt')"


class StandIn:
    """Takes the place of an object whose class is not allowed: it keeps the attributes and does nothing."""

    def __new__(cls, *args):
        if args and not cls.__module__.startswith(_VALUES):
            raise pickle.UnpicklingError(f"{cls.__module__}.{cls.__name__} would be called")
        return object.__new__(cls)

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        vars(self).update(state if isinstance(state, dict) else {})


def read_torch(file: Path, checkpoint: Checkpoint, stack: contextlib.ExitStack) -> None:
    """Adds the tensors of a PyTorch file, and its dimensions as config.json. Errors: CheckpointError."""
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{file} is a PyTorch file, and torch is not installed: pip install torch, "
            "or get the model's safetensors file"
        ) from None
    content = _load(torch, file)
    state = _weights(torch, file, content)
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}

    def load(tensor):
        tensor = tensor.detach().contiguous()
        return (
            tensor.view(torch.int16).numpy().view("<u2") if tensor.dtype == torch.bfloat16 else tensor.numpy()
        )

    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise CheckpointError(f'{file}: tensor "{name}" is {kind}; save it as t.to_dense()')
        if tensor.is_meta:
            raise CheckpointError(f'{file}: tensor "{name}" has no values (device meta)')
        dtype = names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
        checkpoint.tensors.append(Tensor(name, dtype, tuple(tensor.shape), partial(load, tensor)))
    checkpoint.config = checkpoint.config or _config(content)


def _load(torch, file: Path):
    is_zip = zipfile.is_zipfile(file)
    others: list[str] = []
    try:
        allowed = contextlib.nullcontext()
        if is_zip and hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
            others = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            allowed = torch.serialization.safe_globals([(_stand_in(name), name) for name in others])
        with allowed:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:  # torch's own text advises to execute what the file contains
        names = ", ".join(others[:5]) or "objects other than tensors"
        raise CheckpointError(
            f"{file}: it contains code ({names}), which is never executed, or is damaged; {_ADVICE}"
        ) from error
    except Exception as error:  # torch raises zip and runtime errors of many kinds
        raise CheckpointError(f"{file}: torch cannot load it: {str(error).splitlines()[0]}") from error


def _stand_in(path: str) -> type:
    module, _, name = path.rpartition(".")
    return type(name, (StandIn,), {"__module__": module})


def _weights(torch, file: Path, content) -> dict:
    """The state_dict: the whole content, or what a training checkpoint has under one of the usual keys."""
    whole = content.get("model") if isinstance(content, dict) else content
    if isinstance(whole, StandIn):
        raise CheckpointError(f"{file}: it is a whole model, which is code; {_ADVICE}")
    state = content
    while isinstance(state, dict):
        inner = next((state[key] for key in _WEIGHTS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file}: no dict of tensors (a state_dict) in it, but {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{file}: no dict of tensors (a state_dict) in it: "
                f"{name!r} is of type {type(value).__name__}; {_ADVICE}"
            )
    return state


def _config(content: dict) -> str | None:
    """The dimensions of a training checkpoint as config.json."""
    for key in _CONFIGS:
        stated = content.get(key)
        stated = stated if isinstance(stated, dict) else vars(stated) if isinstance(stated, StandIn) else {}
        found = {
            ours: stated[name]
            for ours, names in _DIMENSIONS.items()
            for name in names
            if isinstance(stated.get(name), (bool, int, float, str))
        }
        if "n_head" in found:
            if key == "model_args":  # nanoGPT, whose MLP has the exact gelu
                found["activation_function"] = "gelu"
            return json.dumps(found)
    return None
