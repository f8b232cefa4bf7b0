"""diffusers' UNet2DModel as rows: output and gradients are diffusers', for random weights of odd shapes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pg_llm
from pg_llm.files.checkpoint import CheckpointError
from pg_llm.files.unet import unet_nodes

DEFAULTS = {
    "sample_size": 8,
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
# What each differs in from the first.
CONFIGS = {
    "small": {},
    "one channel, three levels, two layers": {
        "sample_size": [12, 8],
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": [6, 6, 9],
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
        "norm_num_groups": 3,
        "attention_head_dim": None,
        "layers_per_block": 2,
    },
    "as google's": {
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "center_input_sample": True,
    },
    "scale and shift": {
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
        "mid_block_scale_factor": 1.5,
        "time_embedding_dim": 20,
    },
    "no attention in the middle": {"add_attention": False, "act_fn": "relu", "attention_head_dim": 1},
}


@pytest.fixture
def folder(request, tmp_path):
    """The diffusers model of the case named by the parameter, with random weights, and its folder."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(3)
    net = diffusers.UNet2DModel(**{**DEFAULTS, **CONFIGS[getattr(request, "param", "small")]})
    with torch.no_grad():
        for parameter in net.parameters():  # biases and norms too, which begin as 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.05)
    net.save_pretrained(tmp_path)
    return net, tmp_path


def inputs(net, B: int = 2):
    rng = np.random.default_rng(5)
    nodes = {node.name: node for node in unet_nodes(net.config)}
    shapes = [[B, *nodes[name].attrs["shape"][1:]] for name in ("sample", "target")]
    x, target = (np.asarray(rng.standard_normal(shape), np.float32) for shape in shapes)
    return x, np.asarray([7, 913, 42][:B], np.float32), target


def evaluate(conn, node: str, *tensors):
    query = (
        f"SELECT llm_eval('unet', '{node}', '{{}}', ARRAY['sample', 'timestep', 'target'], ARRAY[%b, %b, %b])"
    )
    return conn.cursor(binary=True).execute(query, tensors).fetchone()[0]


@pytest.fixture
def db(conn):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'unet'")
    return conn


def relative(got, expected) -> float:
    expected = expected.detach().numpy()
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("folder", CONFIGS, indirect=True)
def test_output_and_gradients(db, folder):
    torch = pytest.importorskip("torch")
    net, path = folder
    written = pg_llm.load_model(db, path, "unet", progress=False)
    assert written.parameters == sum(p.numel() for p in net.parameters())
    x, t, target = inputs(net)
    y = net.double()(torch.from_numpy(x).double(), torch.from_numpy(t)).sample
    assert relative(evaluate(db, "output", x, t, target), y) < 1e-5
    loss = torch.nn.functional.mse_loss(y, torch.from_numpy(target).double())
    loss.backward()
    db.execute("SET pg_llm.autograd = on")
    try:
        assert evaluate(db, "loss", x, t, target) == pytest.approx(loss.item(), rel=1e-5)
    finally:
        db.execute("RESET pg_llm.autograd")
    db.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'unet')")
    db.execute("SELECT llm_accumulate_grads('unet')")
    query = "SELECT name, grad FROM llm_param WHERE model = 'unet'"
    found = dict(db.cursor(binary=True).execute(query).fetchall())
    largest = max(p.grad.abs().max().item() for p in net.parameters())
    for name, parameter in net.named_parameters():
        assert np.abs(found.pop(name) - parameter.grad.numpy()).max() < 1e-5 * largest, name
    assert not found


def test_files(db, folder):
    """fp16, a pipeline's folder, names of former versions; nothing is written if a tensor is wrong."""
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    net, path = folder
    x, t, target = inputs(net, 1)
    pg_llm.load_model(db, path, "unet", progress=False)
    output = evaluate(db, "output", x, t, target)

    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = path / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.load_file(weights)
    for name in [name for name in tensors if ".attentions." in name and ".to_" in name]:
        new = next(new for new in former if f".{new}." in name)
        tensors[name.replace(f".{new}.", f".{former[new]}.")] = tensors.pop(name)
    (path / "pipeline").mkdir()
    (path / "config.json").rename(path / "pipeline" / "config.json")
    pipeline = (path / "pipeline").rename(path / "unet")
    safetensors.save_file(tensors, pipeline / weights.name)
    pg_llm.load_model(db, path, "unet", progress=False)
    np.testing.assert_array_equal(evaluate(db, "output", x, t, target), output)

    half = {name: tensor.half() for name, tensor in tensors.items()}
    safetensors.save_file(half, pipeline / "diffusion_pytorch_model.fp16.safetensors")
    (pipeline / weights.name).unlink()
    pg_llm.load_model(db, path, "unet", progress=False)
    assert 0 < np.abs(evaluate(db, "output", x, t, target) - output).max() < 0.02

    for change, says in (
        (lambda w: w.pop("conv_in.bias"), "conv_in.bias is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is surplus"),
        (lambda w: w.update({"conv_in.bias": torch.zeros(3)}), r"conv_in.bias has the shape \(3,\)"),
    ):
        wrong = dict(half)
        change(wrong)
        safetensors.save_file(wrong, pipeline / "diffusion_pytorch_model.fp16.safetensors")
        with pytest.raises(CheckpointError, match=says):
            pg_llm.load_model(db, path, "other", progress=False)
    assert db.execute("SELECT count(*) FROM llm_graph WHERE model = 'other'").fetchone() == (0,)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "SkipDownBlock2D"),
        ({"up_block_types": ["UpBlock2D"]}, "equally many"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"downsample_type": "resnet"}, "downsample_type"),
        ({"num_class_embeds": 10}, "num_class_embeds"),
        ({"sample_size": None}, "sample_size is None"),
        ({"sample_size": 7}, "does not halve evenly"),
        ({"norm_num_groups": 5}, "5 groups do not divide the 8 channels"),
        ({"attention_head_dim": 5}, "does not divide 12 channels"),
        ({"block_out_channels": [7, 12]}, "even number"),
        ({"block_out_channels": "8"}, "a list is expected"),
        ({"layers_per_block": 0}, "layers_per_block is 0"),
        ({"norm_eps": "small"}, "norm_eps is 'small'"),
    ],
)
def test_configurations_that_are_not_read(change, says):
    with pytest.raises(CheckpointError, match=says):
        unet_nodes({**DEFAULTS, **change})


def test_another_graph_of_that_name_is_kept(db, folder):
    net, path = folder
    pg_llm.load_model(db, path, "unet", progress=False)
    db.execute(
        "UPDATE llm_graph SET attrs = attrs || '{\"eps\": 0.5}' "
        "WHERE (model, name) = ('unet', 'conv_norm_out')"
    )
    with pytest.raises(CheckpointError, match="exists with other nodes"):
        pg_llm.load_model(db, path, "unet", progress=False)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
    with pytest.raises(CheckpointError, match="UNet2DConditionModel is not read"):
        pg_llm.load_model(db, path, "another", progress=False)
