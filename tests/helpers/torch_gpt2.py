"""transformers' GPT-2 of any size, with random weights."""

import pytest


def random_gpt2(size, seed=0):
    """size: n_layer, n_head, d_model, n_positions, vocab, other options of transformers' GPT2Config."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    n_layer, n_head, d_model, n_positions, vocab, options = size
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=n_positions, n_embd=d_model, n_layer=n_layer, n_head=n_head,
        bos_token_id=0, eos_token_id=0, initializer_range=min(0.3, 1.5 / d_model**0.5), **options,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    for _name, parameter in model.named_parameters():  # biases and norms start at 0 and 1: make them distinct
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model
