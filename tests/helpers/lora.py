"""A random GPT-2 with a random LoRA of PEFT's, in PyTorch and in the database."""

from __future__ import annotations

import warnings

import pytest

import pg_llm
from helpers.torch_gpt2 import random_gpt2

# layers, heads, channels, positions, vocabulary: no two dimensions are equal
SIZE = (2, 3, 12, 16, 31, {"n_inner": 20})
TOKENS = [3, 14, 15, 9, 26, 5]


def adapted(settings, seed=0):
    """PEFT's model with random values in all that it trains; settings are those of LoraConfig."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(
            random_gpt2(SIZE), peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, **settings)
        )
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        assert not parameter.requires_grad or "default" in name or name.endswith("bias"), name
    return model.eval()


def load_base(conn, folder, model="base"):
    """transformers' model that adapted() begins with, as `model`."""
    random_gpt2(SIZE).save_pretrained(folder / model)
    pg_llm.load_model(conn, folder / model, model, progress=False)


def save(model, folder):
    """What PEFT writes; returns the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def peft_logits(model, tokens=TOKENS):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()
