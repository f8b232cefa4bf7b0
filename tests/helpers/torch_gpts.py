"""GPTs as others write them in PyTorch, with their names of parameters: nanoGPT, LLMs-from-scratch."""

import math

import pytest

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def attend(q, k, v, n_head):  # each (B,T,C) -> (B,T,C)
    B, T, C = q.shape
    q, k, v = (x.view(B, T, n_head, C // n_head).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(C // n_head)
    scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)


class NanoNorm(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class NanoGPT(nn.Module):
    """nanoGPT, build-nanogpt (approximate="tanh") and minGPT (that, and tied=False)."""

    def __init__(
        self, n_layer, n_head, n_embd, block_size, vocab_size, bias=True, approximate="none", tied=True
    ):
        super().__init__()
        self.n_head, self.approximate = n_head, approximate

        def block():
            attn = {"c_attn": nn.Linear(n_embd, 3 * n_embd, bias), "c_proj": nn.Linear(n_embd, n_embd, bias)}
            mlp = {"c_fc": nn.Linear(n_embd, 4 * n_embd, bias), "c_proj": nn.Linear(4 * n_embd, n_embd, bias)}
            norms = {"ln_1": NanoNorm(n_embd, bias), "ln_2": NanoNorm(n_embd, bias)}
            return nn.ModuleDict(norms | {"attn": nn.ModuleDict(attn), "mlp": nn.ModuleDict(mlp)})

        parts = {"wte": nn.Embedding(vocab_size, n_embd), "wpe": nn.Embedding(block_size, n_embd)}
        parts |= {"h": nn.ModuleList(block() for _ in range(n_layer)), "ln_f": NanoNorm(n_embd, bias)}
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tied:
            self.transformer.wte.weight = self.lm_head.weight
        randomize(self)

    def forward(self, tokens):
        t = self.transformer
        x = t.wte(tokens) + t.wpe(torch.arange(tokens.shape[1]))
        for block in t.h:
            q, k, v = block.attn.c_attn(block.ln_1(x)).chunk(3, -1)
            x = x + block.attn.c_proj(attend(q, k, v, self.n_head))
            inner = functional.gelu(block.mlp.c_fc(block.ln_2(x)), approximate=self.approximate)
            x = x + block.mlp.c_proj(inner)
        return self.lm_head(t.ln_f(x))


class ScratchNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return functional.layer_norm(x, self.scale.shape, self.scale, self.shift, 1e-5)


class ScratchAttention(nn.Module):
    def __init__(self, width, n_heads, context_length, qkv_bias):
        super().__init__()
        self.n_heads = n_heads
        self.W_query, self.W_key, self.W_value = (nn.Linear(width, width, qkv_bias) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(context_length, context_length).triu(1))

    def forward(self, x):
        return self.out_proj(attend(self.W_query(x), self.W_key(x), self.W_value(x), self.n_heads))


class ScratchBlock(nn.Module):
    def __init__(self, width, n_heads, context_length, qkv_bias):
        super().__init__()
        self.att = ScratchAttention(width, n_heads, context_length, qkv_bias)
        self.ff = nn.Module()
        layers = nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        self.ff.layers = nn.Sequential(*layers)
        self.norm1, self.norm2 = ScratchNorm(width), ScratchNorm(width)

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff.layers(self.norm2(x))


class ScratchGPT(nn.Module):
    """GPTModel of LLMs-from-scratch, whose head is not tied."""

    def __init__(self, vocab_size, context_length, emb_dim, n_heads, n_layers, qkv_bias=False):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(vocab_size, emb_dim), nn.Embedding(context_length, emb_dim)
        blocks = (ScratchBlock(emb_dim, n_heads, context_length, qkv_bias) for _ in range(n_layers))
        self.trf_blocks = nn.Sequential(*blocks)
        self.final_norm = ScratchNorm(emb_dim)
        self.out_head = nn.Linear(emb_dim, vocab_size, bias=False)
        randomize(self)

    def forward(self, tokens):
        x = self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[1]))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def randomize(module):
    """Every parameter gets distinct values, so that one in another's place is noticed."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
