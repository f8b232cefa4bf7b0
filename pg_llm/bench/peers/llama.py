"""GPT-2 in llama.cpp, from a GGUF file written here: float32, float16 or 8 bits."""

from __future__ import annotations

from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from pg_llm.bench.peers import Shape, Weights

KINDS = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


class Llama:
    """A context for a model file; kind: f32, f16 or q8_0."""

    def __init__(self, shape: Shape, weights: Weights, threads: int, folder: Path, kind: str = "f32"):
        self.name = f"llama.cpp {kind}"
        path = folder / f"gpt2-{kind}.gguf"
        if not path.exists():
            write(path, shape, weights, kind)
        options = {"n_threads": threads, "n_threads_batch": threads, "n_batch": 512, "n_ubatch": 512}
        self.models = [
            llama_cpp.Llama(str(path), n_ctx=shape.n_positions, logits_all=every, verbose=False, **options)
            for every in (False, True)
        ]
        self.vocab = shape.vocab

    def _logits(self, model) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self.vocab,))

    def prefill(self, tokens: list[int], every: bool) -> np.ndarray:
        """The logits (V) after the tokens."""
        model = self.models[every]
        model.reset()
        model.eval(tokens)
        return self._logits(model).copy()

    def decode(self, tokens: list[int], n: int) -> list[int]:
        """The n most likely next tokens, one by one."""
        model, out, given = self.models[0], [], tokens
        model.reset()
        for _ in range(n):
            model.eval(given)
            given = [int(self._logits(model).argmax())]
            out += given
        return out


def write(path: Path, shape: Shape, weights: Weights, kind: str) -> None:
    """Writes the model as a GGUF file without a tokenizer; matrices are (out,in), vectors stay float32."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(shape.n_positions)
    writer.add_embedding_length(shape.d_model)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(4 * shape.d_model)
    writer.add_head_count(shape.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("none")
    for name, data in weights.items():
        base, _, suffix = name.rpartition(".")
        if base.startswith("h."):
            _, layer, part = base.split(".", 2)
            base = f"blk.{layer}.{PARTS[part]}"
            data = data.T if data.ndim == 2 else data
        else:
            base = TOPS[base]
        quantized = data.ndim == 2 and base != "position_embd" and kind != "f32"
        data = np.ascontiguousarray(data, np.float32)
        if quantized:
            data = gguf.quants.quantize(data, KINDS[kind])
        writer.add_tensor(f"{base}.{suffix}", data, raw_dtype=KINDS[kind] if quantized else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


TOPS = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
