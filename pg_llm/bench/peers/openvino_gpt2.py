"""GPT-2 as an OpenVINO graph: float32, its own fused attention, one infer request over all threads."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as op

from pg_llm.bench.peers import Shape, Weights


class OpenVino:
    """Supports only prefill: decoding would need its stateful form."""

    name = "OpenVINO"

    def __init__(self, shape: Shape, weights: Weights, threads: int):
        core = ov.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        self.last, self.every = (
            core.compile_model(graph(shape, weights, every), "CPU", options) for every in (False, True)
        )

    def prefill(self, tokens: list[int], every: bool) -> np.ndarray:
        """The logits (V) after the tokens."""
        model = self.every if every else self.last
        return model(np.array([tokens], np.int32))[0][0, -1]

    def decode(self, tokens: list[int], n: int) -> list[int]:
        """Not measured: it would need the stateful form of the model."""
        raise NotImplementedError


def graph(shape: Shape, weights: Weights, every: bool) -> ov.Model:
    """tokens (1,T) -> logits (1,T,V), or (1,1,V) of the last position."""
    C, heads = shape.d_model, shape.n_head
    w = {name: op.constant(data) for name, data in weights.items()}
    ids = op.parameter([1, -1], np.int32, name="tokens")
    zero, one = op.constant(np.int32(0)), op.constant(np.int32(1))
    T = op.squeeze(op.slice(op.shape_of(ids, "i32"), [1], [2], [1]), zero)

    def layernorm(x, name):
        x = op.mvn(x, op.constant(np.array([-1])), True, 1e-5, "inside_sqrt")
        return op.add(op.multiply(x, w[name + ".weight"]), w[name + ".bias"])

    def linear(x, name):
        return op.add(op.matmul(x, w[name + ".weight"], False, False), w[name + ".bias"])

    def split_heads(x):  # (1,T,C) -> (1,NH,T,HS)
        parts = op.reshape(x, op.constant(np.array([0, 0, heads, C // heads])), True)
        return op.transpose(parts, op.constant(np.array([0, 2, 1, 3])))

    positions = op.gather(w["wpe.weight"], op.range(zero, T, one, "i32"), zero)
    x = op.add(op.gather(w["wte.weight"], ids, zero), positions)
    for i in range(shape.n_layer):
        h = f"h.{i}"
        qkv = op.split(linear(layernorm(x, f"{h}.ln_1"), f"{h}.attn.c_attn"), op.constant(np.int32(2)), 3)
        q, k, v = (split_heads(qkv.output(j)) for j in range(3))
        y = op.transpose(
            op.scaled_dot_product_attention(q, k, v, causal=True), op.constant(np.array([0, 2, 1, 3]))
        )
        x = op.add(x, linear(op.reshape(y, op.constant(np.array([0, 0, C])), True), f"{h}.attn.c_proj"))
        y = op.gelu(linear(layernorm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"), "tanh")
        x = op.add(x, linear(y, f"{h}.mlp.c_proj"))
    if not every:
        x = op.slice(x, [-1], [np.iinfo(np.int32).max], [1], [1])
    return ov.Model([op.matmul(layernorm(x, "ln_f"), w["wte.weight"], False, True)], [ids], "gpt2")
