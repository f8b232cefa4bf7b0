"""A minimal GPT-2 in PyTorch: fused attention, fused GELU and AdamW, eager mode."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pg_llm.bench.peers import Shape, Weights


class Block(nn.Module):
    """x (B,T,C) -> x (B,T,C): attention and feed-forward, each added to the residual stream."""

    def __init__(self, C: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.c_attn, self.attn_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.c_fc, self.mlp_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x, cache: list | None = None):
        """x (B,T,C) -> (B,T,C), with this block's attention and feed-forward network added."""
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(C, 2)
        )
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        x = x + self.attn_proj(heads.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """tokens (B,T) -> logits (B,T,V), or the mean loss where targets (B,T) are given."""

    def __init__(self, shape: Shape):
        super().__init__()
        C = shape.d_model
        self.wte, self.wpe = nn.Embedding(shape.vocab, C), nn.Embedding(shape.n_positions, C)
        self.h = nn.ModuleList(Block(C, shape.n_head) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(C)

    def forward(self, tokens, targets=None, last: bool = False, caches: list | None = None):
        """tokens (B,T) -> logits (B,T,V), or (B,1,V) of the last position; with targets the mean loss."""
        past = caches[0][0].shape[2] if caches and caches[0] else 0
        x = self.wte(tokens) + self.wpe(torch.arange(past, past + tokens.shape[1]))
        for i, block in enumerate(self.h):
            x = block(x, caches[i] if caches else None)
        x = self.ln_f(x[:, -1:] if last else x)
        logits = F.linear(x, self.wte.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def load(self, weights: Weights) -> Gpt2:
        """Loads the checkpoint's parameters; its matrices are (in,out), PyTorch's (out,in)."""
        names = {"attn.c_attn": "c_attn", "attn.c_proj": "attn_proj"}
        names |= {"mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_proj"}
        state = {}
        for name, data in weights.items():
            for theirs, ours in names.items():
                if f".{theirs}." in name:
                    name, data = name.replace(theirs, ours), data.T
            state[name] = torch.from_numpy(np.ascontiguousarray(data))
        self.load_state_dict(state)
        return self


class Torch:
    """The lean module as a peer."""

    name = "PyTorch"

    def __init__(self, shape: Shape, weights: Weights | None, threads: int):
        torch.set_num_threads(threads)
        self.shape = shape
        self.model = Gpt2(shape)
        if weights is not None:
            self.model.load(weights)

    @torch.no_grad()
    def prefill(self, tokens: list[int], every: bool) -> np.ndarray:
        """The logits (V) after the tokens."""
        return self.model(torch.tensor([tokens]), last=not every)[0, -1].numpy()

    @torch.no_grad()
    def decode(self, tokens: list[int], n: int) -> list[int]:
        """The n most likely next tokens, one by one."""
        caches: list[list] = [[] for _ in range(self.shape.n_layer)]
        out, given = [], torch.tensor([tokens])
        for _ in range(n):
            given = self.model(given, last=True, caches=caches)[:, -1].argmax(-1, keepdim=True)
            out.append(int(given))
        return out

    def trainer(self, B: int, T: int):
        """A function that makes one training step on B sequences of T tokens and returns the loss."""
        tokens = torch.randint(self.shape.vocab, (B, T + 1), generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

        def step() -> float:
            loss = self.model(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step
