"""The programs with which the kit is compared, each running the same random GPT-2.

A peer is used if it is installed (pip install 'pg-llm[bench]'). All have the weights of our model, so all
must compute the same logits, which `agree` checks.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# module, name
PACKAGES = {"torch": "torch", "openvino": "openvino", "llama_cpp": "llama-cpp-python", "gguf": "gguf"}
PACKAGES |= {"tiktoken": "tiktoken", "numpy": "numpy", "diffusers": "diffusers"}


@dataclass(frozen=True)
class Shape:
    """A GPT-2's dimensions."""

    n_layer: int
    n_head: int
    d_model: int
    n_positions: int
    vocab: int


SMALL = Shape(12, 12, 768, 1024, 50257)

Weights = dict[str, np.ndarray]


class Peer(Protocol):
    """A program that computes the model; name is its name in the table."""

    name: str

    def prefill(self, tokens: list[int], every: bool) -> np.ndarray:
        """The logits (V) after the tokens; every: also computes those of every position."""

    def decode(self, tokens: list[int], n: int) -> list[int]:
        """The n most likely next tokens, one by one, with cached keys and values."""


def installed(module: str) -> bool:
    """True if a peer's module can be imported."""
    return importlib.util.find_spec(module) is not None


def versions() -> dict[str, str]:
    """Name and version of every installed peer."""
    return {
        package: importlib.metadata.version(package)
        for module, package in PACKAGES.items()
        if installed(module)
    }


def agree(ours: np.ndarray, peer: Peer, tokens: list[int], tolerance: float) -> None:
    """Raises AssertionError unless a peer computes our logits, up to a fraction of their spread."""
    theirs = peer.prefill(tokens, False)
    error = float(np.abs(ours - theirs).max() / ours.std())
    assert error < tolerance, f"{peer.name} computes other logits: off by {error:.2g} standard deviations"
