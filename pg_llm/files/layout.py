"""Other programs' names and layouts of GPT-2's weights: nanoGPT, minGPT, build-nanogpt, LLMs-from-scratch.

The server, which also imports by path, strips prefixes and tells what is transposed (_llm_import_tensors).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pg_llm.files.checkpoint import Checkpoint, Tensor

# Of wrappers: transformer. (HuggingFace), _orig_mod. (torch.compile), module. (data parallel), model.
_PREFIX = re.compile(r"^(\w+\.)*?(?=(wte|wpe|ln_f|lm_head|h\.\d+)\.)")

# LLMs-from-scratch (Raschka), and minGPT as it was in 2020.
_OTHER_PREFIX = re.compile(r"^(\w+\.)*?(?=(tok_emb|pos_emb|(trf_)?blocks|final_norm|ln_f|(out_)?head)(\.|$))")
_OTHER_NAMES = [
    (r"^tok_emb\.", "wte."),
    (r"^pos_emb(\.weight)?$", "wpe.weight"),
    (r"^final_norm\.", "ln_f."),
    (r"^(out_)?head\.", "lm_head."),
    (r"^(trf_)?blocks\.", "h."),
    (r"\.att\.", ".attn."),
    (r"\.attn\.mask$", ".attn.bias"),
    (r"\.attn\.qkv\.", ".attn.c_attn."),
    (r"\.attn\.(out_)?proj\.", ".attn.c_proj."),
    (r"\.(norm|ln)(\d)\.", r".ln_\2."),
    (r"\.(ff\.layers|mlp)\.0\.", ".mlp.c_fc."),
    (r"\.(ff\.layers|mlp)\.2\.", ".mlp.c_proj."),
    (r"\.scale$", ".weight"),
    (r"\.shift$", ".bias"),
]
_QUERY = re.compile(r"(h\.\d+\.attn\.)(W_)?query\.(weight|bias)")


def plain_name(name: str) -> str:
    """GPT-2's own name of a tensor: without the prefixes that wrappers add, such as `transformer.`"""
    return _PREFIX.sub("", name)


def is_buffer(name: str) -> bool:
    """True for the causal masks in old checkpoints, which are no weights."""
    return re.fullmatch(r"h\.\d+\.attn\.(bias|masked_bias)", plain_name(name)) is not None


def to_gpt2(checkpoint: Checkpoint) -> None:
    """Renames and joins tensors, so that their names are GPT-2's behind prefixes; unknown ones stay."""
    tensors = checkpoint.tensors
    if any(_OTHER_PREFIX.sub("", t.name) == "tok_emb.weight" for t in tensors):
        tensors = _joined([replace(t, name=_gpt2_name(t.name)) for t in tensors])
        # minGPT's positions are (1,T,C)
        tensors = [replace(t, shape=t.shape[-2:]) if t.name == "wpe.weight" else t for t in tensors]
        if not any(t.name == "h.0.attn.c_attn.bias" for t in tensors):
            checkpoint.config = json.dumps(json.loads(checkpoint.config or "{}") | {"qkv_bias": False})
    checkpoint.tensors = _with_wte(tensors)


def in_out(tensors: list[Tensor]) -> list[Tensor]:
    """Transposes the matrices of blocks if they are (out,in), as a Linear layer of PyTorch has them."""
    attn = [t.shape for t in tensors if re.fullmatch(r"h\.\d+\.attn\.c_attn\.weight", plain_name(t.name))]
    if not any(len(shape) == 2 and shape[0] == 3 * shape[1] for shape in attn):
        return tensors
    is_matrix = [len(t.shape) == 2 and plain_name(t.name).startswith("h.") for t in tensors]
    return [transposed(t) if matrix else t for t, matrix in zip(tensors, is_matrix, strict=True)]


def _gpt2_name(name: str) -> str:
    name = _OTHER_PREFIX.sub("", name)
    for pattern, replacement in _OTHER_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _joined(tensors: list[Tensor]) -> list[Tensor]:
    """Queries, keys and values of a layer as one tensor, (3*C,C) or (3*C)."""
    named = {t.name: t for t in tensors}
    joined = {}
    for name in [name for name in named if _QUERY.fullmatch(name)]:
        names = [name.replace("query", part) for part in ("query", "key", "value")]
        parts = [named[part] for part in names if part in named]
        if len({(t.shape, t.dtype) for t in parts}) == 1 and len(parts) == 3:
            for part in names:
                del named[part]
            joined[name] = _stacked(_QUERY.sub(r"\1c_attn.\3", name), parts)
    return [*named.values(), *joined.values()]


def _stacked(name: str, parts: list[Tensor]) -> Tensor:
    def load():
        return np.concatenate([part.load().reshape(part.shape) for part in parts])

    first = parts[0]
    return replace(first, name=name, shape=(3 * first.shape[0], *first.shape[1:]), load=load)


def _with_wte(tensors: list[Tensor]) -> list[Tensor]:
    """Names the head as GPT-2 does; of a tied pair that was saved once, it is wte.weight."""
    names = {plain_name(t.name) for t in tensors}
    heads = {"lm_head.weight"} & names or {"lm_head.decoder.weight"}
    name = "lm_head.weight" if "wte.weight" in names else "wte.weight"
    return [replace(t, name=name) if plain_name(t.name) in heads else t for t in tensors]


def transposed(tensor: Tensor) -> Tensor:
    """The matrix (M,N) as (N,M)."""

    def load():
        return tensor.load().reshape(tensor.shape).T

    return replace(tensor, shape=tensor.shape[::-1], load=load)
