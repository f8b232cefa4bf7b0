"""A residual block of the U-Net in plain SQL: the value that llm_eval computes and diffusers, too."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest

import pg_llm

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.slow

GROUPS = 4
CONFIG = {
    "sample_size": [8, 6],
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": GROUPS,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
# a block that keeps the number of channels, and one that needs a convolution in its skip connection
BLOCKS = ["down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "up_blocks.1.resnets.1"]
SQL = resources.files("pg_llm.course").joinpath("residual_block.sql").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(5)
    net = diffusers.UNet2DModel(**CONFIG).eval()
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return net


@pytest.fixture
def loaded(conn, net, tmp_path):
    """A session with the model and the file's functions."""
    net.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, "blocks", progress=False)
    conn.execute(SQL)
    yield conn
    conn.execute("DELETE FROM llm_model_config WHERE model = 'blocks'")


def evaluated(conn, node, sample):
    query = (
        "SELECT llm_eval('blocks', %s, '{}', ARRAY['sample', 'timestep'], ARRAY[%s::tensor, '[37]'::tensor])"
    )
    return np.array(conn.cursor(binary=True).execute(query, [node, sample]).fetchone()[0])


@pytest.mark.parametrize("block", BLOCKS)
def test_block(loaded, net, block):
    """To 1e-5 of the node's value, and of diffusers' block in float64."""
    sample = np.random.default_rng(1).standard_normal((1, 3, 8, 6)).astype(np.float32)
    source = "SELECT inputs[1] FROM llm_graph WHERE model = 'blocks' AND name = %s"
    (before,) = loaded.execute(source, [f"{block}.norm1"]).fetchone()
    image = evaluated(loaded, before, sample)
    embedding = evaluated(loaded, "time_embedding.linear_2", sample)
    node = evaluated(loaded, block, sample)
    loaded.execute(
        "SELECT pg_temp.read_block('blocks', %s, %s::tensor, %s::tensor)", [block, image, embedding]
    )
    query = "SELECT value FROM pg_temp.residual_block(%s) ORDER BY c, y, x"
    ours = np.array(loaded.execute(query, [GROUPS]).fetchall()).reshape(node.shape)
    np.testing.assert_allclose(ours, node, atol=1e-5 * np.abs(node).max())
    with torch.no_grad():
        module = net.get_submodule(block).double()
        expected = module(torch.tensor(image).double(), torch.tensor(embedding).double()).numpy()
        module.float()
    np.testing.assert_allclose(ours, expected, atol=1e-9 * np.abs(expected).max())


def test_no_tensor_is_computed_with():
    """The computation names no function or operator of tensors: what read_block writes are plain columns."""
    _, found, computation = SQL.partition("CREATE FUNCTION pg_temp.residual_block")
    assert found
    code = re.sub(r"--.*", "", computation)
    assert not re.search(r"tensor|llm_|pg_llm|@", code)
    assert set(re.findall(r"\b([a-z_]\w*)\(", code)) <= {
        *("residual_block", "max", "avg", "sum", "min", "sqrt", "exp", "var_pop"),
        *("TABLE", "EXISTS"),
    }
