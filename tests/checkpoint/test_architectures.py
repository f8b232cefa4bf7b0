"""Other architectures as rows, against transformers in float64: random weights of odd sizes, saved by it."""

from __future__ import annotations

import json
import re

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoint_files import WAYS, by_path, nothing_left, over_connection, same, stored, visible
from helpers.tiny_model import logits

from pg_llm.files.convert import convert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

folder = checkpoint_files.folder
model = checkpoint_files.model

NEO = {
    "vocab_size": 67, "max_position_embeddings": 80, "hidden_size": 24, "num_layers": 3, "num_heads": 3,
    "attention_types": [[["global", "local"], 1], [["local"], 1]], "window_size": 5, "intermediate_size": 44,
}  # fmt: skip

LLAMA = {
    "vocab_size": 71, "max_position_embeddings": 90, "hidden_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 44,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 50000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
QWEN = LLAMA | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
NEOX = {
    "vocab_size": 59, "max_position_embeddings": 90, "hidden_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 52,
}  # fmt: skip
NEOX_ROPE = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6}
GPTJ = {
    "vocab_size": 53, "n_positions": 90, "n_embd": 40, "n_layer": 2, "n_head": 4, "rotary_dim": 6,
}  # fmt: skip
OPT = {
    "vocab_size": 61, "max_position_embeddings": 90, "hidden_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 3, "ffn_dim": 44, "word_embed_proj_dim": 24,
}  # fmt: skip

# class of the configuration and the options in which it differs from its default
MODELS: dict[str, tuple[str, dict]] = {
    "gpt_neo": ("GPTNeo", NEO),
    "gpt_neo untied": ("GPTNeo", NEO | {"tie_word_embeddings": False, "intermediate_size": None}),
    "gpt_neo short": ("GPTNeo", NEO | {"window_size": 256}),
    "gpt_neo erf": ("GPTNeo", NEO | {"activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    "llama": ("Llama", LLAMA),
    "llama 3": ("Llama", LLAMA | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama biases": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6}),
    "llama linear": ("Llama", LLAMA | {"rope_parameters": LINEAR, "hidden_act": "gelu"}),
    "llama head": ("Llama", LLAMA | {"head_dim": 10}),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 7, "head_dim": 8}),
    "mistral one head": ("Mistral", LLAMA | {"sliding_window": 4096, "num_key_value_heads": 1}),
    "mistral global": ("Mistral", LLAMA | {"sliding_window": None}),
    "qwen2": ("Qwen2", LLAMA | {"tie_word_embeddings": True}),
    "qwen2 windows": ("Qwen2", QWEN),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 6, "tie_word_embeddings": True}),
    "qwen3 windows": ("Qwen3", QWEN | {"head_dim": 8, "attention_bias": True}),
    "pythia": ("GPTNeoX", NEOX | {"rope_parameters": NEOX_ROPE}),
    "gpt_neox": ("GPTNeoX", NEOX | {"use_parallel_residual": False, "attention_bias": False}),
    "gptj": ("GPTJ", GPTJ),
    "gptj whole": ("GPTJ", GPTJ | {"rotary_dim": 10, "n_inner": 44}),
    "opt": ("OPT", OPT),
    "opt without biases": ("OPT", OPT | {"enable_bias": False, "tie_word_embeddings": False}),
}
ALL = pytest.mark.parametrize("name", MODELS)
# one token for each id, so that text can be generated
TOKENIZER = (
    "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) SELECT model, i, chr(256 + i), int4send(i) "
    "FROM llm_model_config, generate_series(0, vocab - 1) AS i WHERE model = %s"
)
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


def network_of(name, seed=0):
    """The model of this name with random weights, each distinct, in float64."""
    kind, options = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        **{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "initializer_range": 0.1} | options
    )
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return network


def saved(name, folder):
    """The folder that transformers saves, and the model computing in float64."""
    network = network_of(name)
    network.save_pretrained(folder / "m")
    return visible(folder / "m"), network.double()


def agrees(conn, model, network, tolerance=1e-6):
    """The logits, relative to the largest."""
    with torch.no_grad():
        expected = network(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(logits(conn, model, TOKENS), expected, atol=tolerance * np.abs(expected).max())


@WAYS
@ALL
def test_logits(conn, folder, model, load, name):
    """Loaded, computed alike, exported in the original layout, and loaded again by transformers and by us."""
    source, network = saved(name, folder)
    load(conn, source, model)
    agrees(conn, model, network)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder / "out"), model])
    loader = transformers.AutoModelForCausalLM
    again, info = loader.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert all(
        torch.equal(a, b.float()) for a, b in zip(again.parameters(), network.parameters(), strict=True)
    )
    agrees(conn, model, again.eval().double())
    before = stored(conn, model)
    load(conn, folder / "out", model)
    assert same(before, stored(conn, model))


@ALL
def test_greedy_tokens(conn, folder, model, name):
    """64 tokens, one at a time over the cache, are those of transformers without one."""
    source, network = saved(name, folder)
    by_path(conn, source, model)
    conn.execute(TOKENIZER, [model])
    tokens = list(TOKENS)
    with torch.no_grad():
        for _ in range(64):
            tokens.append(int(network(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    query = (
        "SELECT token_id FROM llm_generate_stream(%s::int[], 64, temperature => 0, model => %s, eos => -1)"
    )
    assert [token for (token,) in conn.execute(query, [TOKENS, model])] == tokens[len(TOKENS) :]


def gradients(conn, model, tokens, targets):
    """The gradient of the loss with respect to each parameter."""
    conn.execute("SELECT llm_zero_grad(%s)", [model])
    conn.execute("UPDATE llm_autograd_mode SET flag = true")
    conn.execute("SELECT llm_loss(%s, %s::int[], %s::int[])", [model, tokens, targets])
    conn.execute("UPDATE llm_autograd_mode SET flag = false")
    conn.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), %s)", [model])
    conn.execute("SELECT llm_accumulate_grads(%s)", [model])
    return dict(conn.execute("SELECT name, grad FROM llm_param WHERE model = %s", [model]).fetchall())


def ours_of(parameter, name):
    """Our name of a parameter of transformers."""
    if MODELS[name][0] == "GPTNeoX":
        parameter = parameter.replace("lm_head", "embed_out")  # as its files have it
    return re.sub(r"^(model\.decoder|model|transformer|gpt_neox)\.", "", parameter)


@ALL
def test_gradients(conn, folder, model, name):
    source, network = saved(name, folder)
    over_connection(conn, source, model)
    tokens = torch.tensor([TOKENS])
    torch.nn.functional.cross_entropy(network(tokens[:, :-1]).logits[0], tokens[0, 1:]).backward()
    expected = {ours_of(n, name): p.grad.numpy() for n, p in network.named_parameters()}
    ours = gradients(conn, model, TOKENS[:-1], TOKENS[1:])
    assert ours.keys() == expected.keys()
    # a bias of keys moves all scores of a query alike: its gradient is 0 but for rounding
    smallest = 1e-2 * max(np.abs(gradient).max() for gradient in expected.values())
    for parameter, gradient in expected.items():
        scale = max(smallest, np.abs(gradient).max())
        np.testing.assert_allclose(ours[parameter], gradient, atol=4e-6 * scale, err_msg=parameter)


@pytest.mark.parametrize("name", ["gpt_neo", "llama", "pythia", "opt"])
def test_layers_by_number(conn, folder, model, name):
    """The residual stream is found by its names in each architecture, and attention by its layer."""
    source, network = saved(name, folder)
    by_path(conn, source, model)
    conn.execute(TOKENIZER, [model])
    conn.execute("UPDATE llm_bpe_vocab SET bytes = convert_to(token, 'UTF8') WHERE model = %s", [model])
    with torch.no_grad():
        states = network(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
    for layer, state in enumerate(states):
        expected = state[0, -1].numpy()
        query = "SELECT llm_embed(llm_decode(%s::int[], %s), %s, %s, 'last')"
        ours = conn.execute(query, [TOKENS, model, model, layer]).fetchone()[0]
        np.testing.assert_allclose(ours, expected, atol=2e-6 * np.abs(expected).max())
    run = conn.execute("SELECT llm_trace(%s, %s::int[])", [model, TOKENS]).fetchone()[0]
    query = "SELECT max(layer) FROM llm_attention_map WHERE run = %s"
    assert conn.execute(query, [run]).fetchone()[0] == len(states) - 2


@pytest.mark.parametrize("name", ["gpt_neo", "llama"])
def test_converted(conn, folder, model, name):
    """One file with its config.json inside; GPT-2's rules for biases and layout do not touch it."""
    source, network = saved(name, folder)
    convert(source, folder / "all.npz")
    by_path(conn, visible(folder / "all.npz"), model)
    agrees(conn, model, network)


# a change to config.json, and what the error says
REFUSED: list[tuple[str, dict, str]] = [
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, 'rope_type "yarn" is not supported'),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None},
        '"dynamic" is not',
    ),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_scaling of type linear has for factor"),
    ("llama", {"num_hidden_layers": None}, "does not state num_hidden_layers"),
    ("llama", {"num_hidden_layers": 4}, "9 missing"),
    ("llama", {"intermediate_size": 45}, "9 of another shape"),
    ("llama", {"attention_bias": True}, "12 missing"),
    ("llama", {"attention_bias": "yes"}, 'attention_bias is "yes", expected true or false'),
    ("llama", {"num_key_value_heads": 4}, "6 heads do not divide among n_kv_head 4"),
    ("llama", {"num_local_experts": 8}, "num_local_experts is 8, which is not supported"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is .*, which is not supported"),
    ("llama", {"model_type": "mixtral"}, 'model_type "mixtral" is not known'),
    ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before is false, supported is true"),
    (
        "gpt_neo",
        {"attention_types": [[["global", "odd", "local"], 1]]},
        "attention_layers is .*, expected a list of",
    ),
    ("gpt_neo", {"attention_types": [["local"], [3]]}, "attention_types is .*, expected lists such as"),
    ("gpt_neo", {"attention_types": [[["local"], 2]]}, "attention_types states 2 layers, num_layers 3"),
    ("gpt_neo", {"window_size": 0}, "window_size is 0, expected a whole number"),
]


@WAYS
@pytest.mark.parametrize(("name", "change", "match"), REFUSED)
def test_refused(conn, folder, model, load, name, change, match):
    """By name, and nothing is left of the import."""
    source, _ = saved(name, folder)
    config = json.loads((source / "config.json").read_text()) | change
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(psycopg.Error, match=match):
        load(conn, source, model)
    assert nothing_left(conn, model)


@ALL
def test_made_in_sql(conn, folder, model, name):
    """llm_create_model with the file's options makes the same rows as the import; random weights compute."""
    by_path(conn, saved(name, folder)[0], model)
    rows = conn.execute("SELECT * FROM llm_model_graph(%s)", [model]).fetchall()
    conn.execute("DELETE FROM llm_graph WHERE model = %s", [model])
    conn.execute(
        "SELECT llm_create_model(model, n_layer, n_head, d_model, n_positions, vocab, d_ff, tokenizer, "
        "options), llm_init_model(model) FROM llm_model_config WHERE model = %s",
        [model],
    )
    query = "SELECT name, op, inputs, attrs FROM llm_graph WHERE model = %s ORDER BY id"
    assert conn.execute(query, [model]).fetchall() == rows
    assert np.isfinite(logits(conn, model, TOKENS)).all()


# an architecture, options of llm_create_model, and what its config.json has no key for
STATED: list[tuple[str, dict, str | None]] = [
    ("gpt2", {"attention_layers": ["global", "local"], "window_size": 3}, "attention_layers"),
    ("gpt2", {"experts": 3, "experts_per_token": 2, "balance_loss": 0.5}, "experts"),
    ("gpt2", {"head_dim": 6}, "head_dim"),
    ("gpt2", {"bias": False, "scale_attn_by_inverse_layer_idx": True}, None),
    ("gpt_neo", {"attention_layers": ["local"], "window_size": 3}, None),
    ("gpt_neo", {}, None),
    ("llama", {"rotary_dim": 2, "n_kv_head": 1}, "rotary_dim"),
    ("llama", {"attention_bias": True, "rope_scaling": {"factor": 3}}, None),
    ("llama", {"attention_layers": ["local", "global"], "window_size": 3}, "attention_layers"),
    ("mistral", {}, None),
    ("mistral", {"attention_layers": ["local"], "window_size": 3, "n_kv_head": 1, "head_dim": 6}, None),
    ("mistral", {"attention_layers": ["local", "global"], "window_size": 3}, "attention_layers"),
    ("qwen2", {"attention_layers": ["local", "local", "global"], "window_size": 3}, None),
    ("qwen3", {"attention_layers": ["local", "global"], "window_size": 3, "head_dim": 6}, None),
    ("gpt_neox", {"attention_layers": ["local"], "window_size": 3, "rotary_dim": 2}, "attention_layers"),
    ("gptj", {"tied_head": True, "rotary_dim": 4}, None),
    ("gpt_neox", {"head_dim": 6, "rotary_dim": 4}, "head_dim"),
    ("opt", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon"),
    ("opt", {"attention_bias": False, "activation": "gelu_erf"}, None),
]


@WAYS
@pytest.mark.parametrize(("architecture", "options", "unread"), STATED)
def test_what_config_json_cannot_express(conn, folder, model, load, architecture, options, unread):
    """Exported with a warning; imported again, under this name and another, it has the same logits."""
    query = "SELECT llm_create_model(%s, 4, 3, 12, 40, 61, 20, options => %s)"
    conn.execute(query, [model, json.dumps({"architecture": architecture} | options)])
    conn.execute("SELECT llm_init_model(%s, 1)", [model])
    conn.execute("UPDATE llm_param SET data = data * 5 WHERE model = %s AND ndim(data) > 1", [model])
    before = logits(conn, model, TOKENS)
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder), model])
    expected = f"has no {unread}: with this file it computes something else"
    assert [expected in notice for notice in notices] == ([True] if unread else [])
    other = f"{model[:50]} again"
    conn.execute("DELETE FROM llm_model_config WHERE model = %s", [other])
    for name in (model, other):
        load(conn, folder, name)
        assert np.array_equal(logits(conn, name, TOKENS), before)
    if unread is None:
        network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval().double()
        agrees(conn, model, network, 3e-6)


def test_an_option_that_is_lost(conn, folder, model):
    """The graph that an import would make is compared with the model's, whatever option is without a key."""
    conn.execute(
        "SELECT llm_create_model(%s, 1, 3, 12, 40, 61, options => %s)",
        [model, '{"architecture": "mistral", "attention_bias": true}'],
    )
    conn.execute("SELECT llm_init_model(%s, 1)", [model])
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder), model])
    assert len(notices) == 1 and "no longer that of mistral" in notices[0]
