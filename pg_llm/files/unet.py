"""The U-Net of a diffusers folder (`UNet2DModel`) as rows: what load_model writes for a denoising model.

`unet_nodes(config)` lists the nodes; weights keep diffusers' names and layout, and so do the nodes that read
them. Inputs of the graph are `sample` (B,C,H,W), `timestep` (B) and, for the loss, `target` of the sample's
shape; `output` is the prediction and `loss` its mean squared error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pg_llm.files.checkpoint import CheckpointError

CLASS_NAME = "UNet2DModel"
WEIGHTS = "diffusion_pytorch_model"

# Keys of config.json whose only supported values are these; others change the graph in ways not written here.
_ONLY: dict[str, tuple] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D", None),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "act_fn": ("silu", "swish", "relu", "gelu"),
}
_DOWN = ("DownBlock2D", "AttnDownBlock2D")
_UP = ("UpBlock2D", "AttnUpBlock2D")

# Names of attention weights in files of before diffusers 0.15.
_FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Node(NamedTuple):
    """A row of llm_graph."""

    name: str
    op: str
    inputs: list[str]
    attrs: dict[str, Any]


@dataclass
class _Image:
    """A value (B,channels,height,width) and the name of its node."""

    node: str
    channels: int
    height: int
    width: int


def current_name(name: str) -> str:
    """A parameter's name as diffusers writes it today.

    Example: current_name("mid_block.attentions.0.query.bias") == "mid_block.attentions.0.to_q.bias"
    """
    stem, _, kind = name.rpartition(".")
    parent, _, last = stem.rpartition(".")
    return f"{parent}.{_FORMER[last]}.{kind}" if last in _FORMER and ".attentions." in stem else name


def unet_nodes(config: Mapping[str, Any]) -> list[Node]:
    """The nodes of a UNet2DModel with this config.json. Errors: CheckpointError that names the key."""
    return _UNet(_Config(config)).nodes


class _Config:
    """config.json with diffusers' defaults, checked."""

    def __init__(self, config: Mapping[str, Any]):
        self.given = config
        for key, supported in _ONLY.items():
            value = config.get(key, supported[0])
            if value not in supported:
                known = " or ".join(str(v) for v in supported)
                raise CheckpointError(f"config.json: {key} is {value!r}; only {known} is read")
        self.channels: list[int] = [
            self.whole_number("block_out_channels", c) for c in self._list("block_out_channels")
        ]
        self.down = self._blocks("down_block_types", _DOWN)
        self.up = self._blocks("up_block_types", _UP)
        if not len(self.down) == len(self.up) == len(self.channels) > 0:
            raise CheckpointError(
                f"config.json: block_out_channels lists {len(self.channels)} blocks, down_block_types "
                f"{len(self.down)}, up_block_types {len(self.up)}; they must be equally many"
            )
        if self.channels[0] % 2:
            raise CheckpointError("config.json: block_out_channels must begin with an even number")
        self.height, self.width = self._size()
        self.in_channels = self.whole("in_channels", 3)
        self.out_channels = self.whole("out_channels", 3)
        self.layers = self.whole("layers_per_block", 2)
        self.groups = self.whole("norm_num_groups", 32)
        self.eps = self.number("norm_eps", 1e-5)
        self.activation = {"swish": "silu"}.get(name := config.get("act_fn", "silu"), name)
        self.scale_shift = config.get("resnet_time_scale_shift", "default") == "scale_shift"
        self.time_channels = self.whole("time_embedding_dim", None) or 4 * self.channels[0]

    def _list(self, key: str) -> list:
        value = self.given.get(key)
        if not isinstance(value, (list, tuple)) or not value:
            raise CheckpointError(f"config.json: {key} is {value!r}; a list is expected")
        return list(value)

    def _blocks(self, key: str, known: tuple[str, ...]) -> list[str]:
        blocks = self._list(key)
        for block in blocks:
            if block not in known:
                raise CheckpointError(f"config.json: {key} names {block!r}; known are {' and '.join(known)}")
        return blocks

    @staticmethod
    def whole_number(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**20:
            raise CheckpointError(f"config.json: {key} is {value!r}; a whole number from 1 up is expected")
        return value

    def whole(self, key: str, default: int | None) -> int:
        value = self.given.get(key)
        return default if value is None else self.whole_number(key, value)  # type: ignore[return-value]

    def number(self, key: str, default: float) -> float:
        value = self.given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise CheckpointError(f"config.json: {key} is {value!r}; a number is expected")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.given.get(key, default))

    def _size(self) -> tuple[int, int]:
        size = self.given.get("sample_size")
        both = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
        height, width = (self.whole_number("sample_size", side) for side in both)
        return height, width

    def heads(self, channels: int, key: str = "attention_head_dim") -> int:
        """attention_head_dim is a head's size; null means one head."""
        size = self.given.get(key, 8)
        size = channels if size is None else self.whole_number(key, size)
        if channels % size:
            raise CheckpointError(f"config.json: {key} {size} does not divide {channels} channels into heads")
        return channels // size

    def attention_groups(self, mid: bool) -> int | None:
        """Groups of attention's norm; None: it has none, as in a middle block with scale_shift."""
        if not mid:
            return self.groups
        given = self.given.get("attn_norm_num_groups")
        if given is not None:
            return self.whole_number("attn_norm_num_groups", given)
        return None if self.scale_shift else self.groups


@dataclass
class _UNet:
    """Writes the nodes in the order of UNet2DModel.forward."""

    config: _Config
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.config
        shape = ["B", config.in_channels, config.height, config.width]
        sample = self.add("sample", "input", shape=shape)
        if config.flag("center_input_sample", False):
            doubled = self.add("sample.double", "add", sample, sample)
            sample = self.add("sample.centered", "sub", doubled, self.add("one", "constant", value=1))
        self.time = self.time_embedding()
        image = _Image(sample, config.in_channels, config.height, config.width)
        image = self.conv("conv_in", image, config.channels[0])
        skips = [image]
        for i, kind in enumerate(config.down):
            image = self.down(i, kind, image, skips)
        if config.given.get("mid_block_type", "UNetMidBlock2D"):
            image = self.middle(image)
        for i, kind in enumerate(config.up):
            image = self.up(i, kind, image, skips)
        image = self.norm("conv_norm_out", image, config.groups)
        # conv_act is SiLU whatever act_fn says
        image = self.conv(
            "conv_out", self.replaced(image, "conv_act", "silu", image.node), config.out_channels
        )
        self.loss(image)

    # ---- rows ----

    def add(self, name: str, op: str, *inputs: str, **attrs: Any) -> str:
        self.nodes.append(Node(name, op, list(inputs), attrs))
        return name

    def param(self, name: str, shape: list[int], **attrs: Any) -> str:
        return self.add(name, "param", shape=shape, **attrs)

    def replaced(self, image: _Image, name: str, op: str, *inputs: str, **attrs: Any) -> _Image:
        """A node whose value has the image's shape."""
        return _Image(self.add(name, op, *inputs, **attrs), image.channels, image.height, image.width)

    # ---- layers ----

    def conv(
        self, name: str, image: _Image, channels: int, size: int = 3, stride: int = 1, padding: Any = None
    ) -> _Image:
        pad = size // 2 if padding is None else padding
        above, below, left, right = pad if isinstance(pad, list) else [pad] * 4
        std = 1 / math.sqrt(image.channels * size * size)
        weight = self.param(f"{name}.weight", [channels, image.channels, size, size], std=std)
        bias = self.param(f"{name}.bias", [channels], init="zeros")
        attrs = {"stride": stride} if stride > 1 else {}
        if pad:
            attrs["padding"] = pad
        node = self.add(name, "conv2d", image.node, weight, bias, **attrs)
        height = (image.height + above + below - size) // stride + 1
        width = (image.width + left + right - size) // stride + 1
        return _Image(node, channels, height, width)

    def linear(self, name: str, value: str, fan_in: int, fan_out: int) -> str:
        weight = self.param(f"{name}.weight", [fan_out, fan_in], std=1 / math.sqrt(fan_in))
        product = self.add(f"{name}.matmul", "matmul", value, weight, transpose_b=True)
        return self.add(name, "add", product, self.param(f"{name}.bias", [fan_out], init="zeros"))

    def norm(self, name: str, image: _Image, groups: int) -> _Image:
        if image.channels % groups:
            raise CheckpointError(
                f"config.json: {groups} groups do not divide the {image.channels} channels of {name}"
            )
        gamma = self.param(f"{name}.weight", [image.channels], init="ones")
        beta = self.param(f"{name}.bias", [image.channels], init="zeros")
        return self.replaced(
            image, name, "groupnorm", image.node, gamma, beta, groups=groups, eps=self.config.eps
        )

    def time_embedding(self) -> str:
        """Sines and cosines of the time step (Vaswani et al., 2017) through two layers."""
        channels, config = self.config.channels[0], self.config
        half = channels // 2
        # in float32 as PyTorch: a frequency off by one bit is multiplied by the time step
        exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32)
        frequencies = np.exp(exponent / np.float32(half - config.number("freq_shift", 0)))
        step = self.add("timestep", "input", shape=["B"])
        column = self.add("time_proj.timestep", "reshape", step, shape=["B", 1])
        constant = self.add("time_proj.frequencies", "constant", value=[float(f) for f in frequencies])
        angles = self.add("time_proj.angles", "mul", column, constant)
        waves = [self.add(f"time_proj.{wave}", wave, angles) for wave in ("sin", "cos")]
        if config.flag("flip_sin_to_cos", True):
            waves.reverse()
        value = self.add("time_proj", "concat", *waves, axis=-1)
        value = self.linear("time_embedding.linear_1", value, channels, config.time_channels)
        value = self.add("time_embedding.act", "silu", value)
        value = self.linear("time_embedding.linear_2", value, config.time_channels, config.time_channels)
        return self.add("time_embedding.nonlinearity", config.activation, value, **self.exactness())

    def exactness(self) -> dict[str, str]:
        return {"approximate": "none"} if self.config.activation == "gelu" else {}

    def activated(self, name: str, image: _Image) -> _Image:
        return self.replaced(image, name, self.config.activation, image.node, **self.exactness())

    def resnet(self, name: str, image: _Image, channels: int, scale: float = 1) -> _Image:
        config = self.config
        value = self.activated(f"{name}.act1", self.norm(f"{name}.norm1", image, config.groups))
        value = self.conv(f"{name}.conv1", value, channels)
        width = channels * (2 if config.scale_shift else 1)
        time = self.linear(f"{name}.time_emb_proj", self.time, config.time_channels, width)
        time = self.add(f"{name}.time", "reshape", time, shape=["B", width, 1, 1])
        if config.scale_shift:
            value = self.scaled_and_shifted(name, self.norm(f"{name}.norm2", value, config.groups), time)
        else:
            value = self.replaced(value, f"{name}.timed", "add", value.node, time)
            value = self.norm(f"{name}.norm2", value, config.groups)
        value = self.activated(f"{name}.act2", value)
        if p := config.number("dropout", 0):
            value = self.replaced(value, f"{name}.dropout", "dropout", value.node, p=p)
        value = self.conv(f"{name}.conv2", value, channels)
        if image.channels != channels:
            image = self.conv(f"{name}.conv_shortcut", image, channels, size=1)
        return self.residual(name, image, value, scale)

    def scaled_and_shifted(self, name: str, image: _Image, time: str) -> _Image:
        """x * (1 + scale) + shift, the two halves of the time step's projection."""
        n = image.channels
        scale = self.add(f"{name}.scale", "slice", time, starts=[0, 0], stops=[None, n])
        shift = self.add(f"{name}.shift", "slice", time, starts=[0, n], stops=[None, 2 * n])
        more = self.replaced(image, f"{name}.more", "mul", image.node, scale)
        value = self.replaced(image, f"{name}.scaled", "add", image.node, more.node)
        return self.replaced(image, f"{name}.shifted", "add", value.node, shift)

    def residual(self, name: str, image: _Image, value: _Image, scale: float) -> _Image:
        if scale == 1:
            return self.replaced(image, name, "add", image.node, value.node)
        total = self.add(f"{name}.sum", "add", image.node, value.node)
        factor = self.add(f"{name}.scale_factor", "constant", value=scale)
        return self.replaced(image, name, "div", total, factor)

    def attention(self, name: str, image: _Image, mid: bool = False, scale: float = 1) -> _Image:
        """Self-attention of the pixels: queries, keys and values are side by side."""
        channels, pixels = image.channels, image.height * image.width
        groups = self.config.attention_groups(mid)
        value = self.norm(f"{name}.group_norm", image, groups) if groups else image
        flat = self.add(f"{name}.flat", "reshape", value.node, shape=["B", channels, pixels])
        rows = self.add(f"{name}.rows", "transpose", flat, axes=[0, 2, 1])
        parts = [self.linear(f"{name}.{part}", rows, channels, channels) for part in ("to_q", "to_k", "to_v")]
        qkv = self.add(f"{name}.qkv", "concat", *parts, axis=-1)
        heads = self.config.heads(channels)
        mixed = self.add(f"{name}.attention", "attention", qkv, n_head=heads, causal=False)
        mixed = self.linear(f"{name}.to_out.0", mixed, channels, channels)
        back = self.add(f"{name}.back", "transpose", mixed, axes=[0, 2, 1])
        shape = ["B", channels, image.height, image.width]
        value = self.replaced(image, f"{name}.pixels", "reshape", back, shape=shape)
        return self.residual(name, image, value, scale)

    # ---- blocks ----

    def down(self, i: int, kind: str, image: _Image, skips: list[_Image]) -> _Image:
        name, channels = f"down_blocks.{i}", self.config.channels[i]
        for j in range(self.config.layers):
            image = self.resnet(f"{name}.resnets.{j}", image, channels)
            if kind == "AttnDownBlock2D":
                image = self.attention(f"{name}.attentions.{j}", image)
            skips.append(image)
        if i + 1 < len(self.config.channels):
            pad = self.config.given.get("downsample_padding", 1)
            # diffusers pads by a row below and a column on the right where the padding is 0
            padding = [0, 1, 0, 1] if pad == 0 else self.config.whole_number("downsample_padding", pad)
            image = self.conv(f"{name}.downsamplers.0.conv", image, channels, stride=2, padding=padding)
            skips.append(image)
        return image

    def middle(self, image: _Image) -> _Image:
        scale = self.config.number("mid_block_scale_factor", 1)
        image = self.resnet("mid_block.resnets.0", image, image.channels, scale)
        if self.config.flag("add_attention", True):
            image = self.attention("mid_block.attentions.0", image, mid=True, scale=scale)
        return self.resnet("mid_block.resnets.1", image, image.channels, scale)

    def up(self, i: int, kind: str, image: _Image, skips: list[_Image]) -> _Image:
        name, channels = f"up_blocks.{i}", self.config.channels[-1 - i]
        for j in range(self.config.layers + 1):
            skip = skips.pop()
            if (skip.height, skip.width) != (image.height, image.width):
                raise CheckpointError(
                    f"config.json: sample_size does not halve evenly: {name} joins "
                    f"{image.height} x {image.width} with {skip.height} x {skip.width} pixels"
                )
            joined = self.add(f"{name}.concat.{j}", "concat", image.node, skip.node, axis=1)
            image = _Image(joined, image.channels + skip.channels, image.height, image.width)
            image = self.resnet(f"{name}.resnets.{j}", image, channels)
            if kind == "AttnUpBlock2D":
                image = self.attention(f"{name}.attentions.{j}", image)
        if i + 1 < len(self.config.channels):
            larger = self.add(f"{name}.upsamplers.0", "upsample", image.node, factor=2)
            image = _Image(larger, channels, 2 * image.height, 2 * image.width)
            image = self.conv(f"{name}.upsamplers.0.conv", image, channels)
        return image

    def loss(self, image: _Image) -> None:
        shape = ["B", image.channels, image.height, image.width]
        output = self.add("output", "reshape", image.node, shape=shape)
        target = self.add("target", "input", shape=shape)
        error = self.add("error", "sub", output, target)
        self.add("loss", "mean", self.add("squared_error", "mul", error, error))
