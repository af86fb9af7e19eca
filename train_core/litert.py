"""Writes a network as a TFLite file, by litert-torch."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node

from train_core.deploy import Deployed
from train_core.description import Description
from train_core.tflite import described

_aten = torch.ops.aten


def converted(model: Deployed, about: Description) -> bytes:
    """The file, in float32, for one image at a time."""
    import litert_torch

    # The other method, which cuts where the fewest values are transposed, leaves the last layers in [N, C, H, W].
    litert_torch.config.layout_optimize_partitioner = "GREEDY"
    pixels = torch.zeros(1, about.height, about.width, about.channels)
    file = litert_torch.convert(_ByRows(_prepared(model, about)), (pixels,))
    return described(bytes(file.model_content()), about)


class _ByRows(nn.Module):
    """The same network for images [1, H, W, C]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False  # `eval` would fail for an exported program

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images.permute(0, 3, 1, 2)))


class _Normalised(nn.Module):
    """An exported network whose normalisation is a 1x1 convolution with as many groups as channels.

    In int8 its weights have a scale for each channel, and no value is rounded before the shift.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Deployed) -> None:
        super().__init__()
        self.network = model.network
        self.register_buffer("scale", model.scale[:, None])
        self.register_buffer("shift", model.shift.flatten())

    def forward(self, images: Tensor) -> Tensor:
        normalised = torch.conv2d(images, self.scale, self.shift, groups=len(self.shift))
        return cast(Tensor, self.network(normalised))


def _prepared(model: Deployed, about: Description) -> torch.fx.GraphModule:
    """The network in operators that TFLite has for images [N, H, W, C], and that can be quantised.

    Batch norms become part of the convolution before them; a norm without one, as in pre-activation blocks, becomes a
    1x1 convolution with as many groups as channels. Means of pixels and channels of zeros keep the order of the pixels;
    otherwise the converter would transpose all features before them.
    """
    images = torch.zeros(1, about.channels, about.height, about.width)
    program = torch.export.export(_Normalised(model).eval(), (images,)).module()
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        with program.graph.inserting_before(node):
            if node.target is _aten.batch_norm.default:
                _replace(node, _convolution(program, node))
            elif node.target is _aten.mean.dim and cast(list[int], node.args[1]) == [2, 3]:
                rows = program.graph.call_function(_aten.permute.default, (node.args[0], [0, 2, 3, 1]))
                _replace(node, program.graph.call_function(_aten.mean.dim, (rows, [1, 2])))
            elif node.target is _aten.pad.default and len(cast(list[int], node.args[1])) == 6:  # more channels
                rows = program.graph.call_function(_aten.permute.default, (node.args[0], [0, 2, 3, 1]))
                more = program.graph.call_function(_aten.pad.default, (rows, cast(list[int], node.args[1])[4:]))
                _replace(node, program.graph.call_function(_aten.permute.default, (more, [0, 3, 1, 2])))
    program.graph.eliminate_dead_code()
    program.graph.lint()
    program.recompile()
    return program


def _convolution(program: torch.fx.GraphModule, norm: Node) -> Node:
    """A convolution that computes a batch norm, and the convolution before it if nothing else uses its output."""
    before = cast(Node, norm.args[0])
    scale, shift, mean, variance = (_value(program, each) for each in norm.args[1:5])
    factor = scale / (variance + cast(float, norm.args[7])).sqrt()
    bias = shift - mean * factor
    weight = factor[:, None, None, None]
    if before.target is _aten.conv2d.default and len(before.users) == 1:
        images, kernel, _, *how = before.args + (None,) * (3 - len(before.args))
        arguments: tuple[Any, ...] = (images, _constant(program, _value(program, kernel) * weight))
        return program.graph.call_function(_aten.conv2d.default, (*arguments, _constant(program, bias), *how))
    arguments = (before, _constant(program, weight), _constant(program, bias), [1, 1], [0, 0], [1, 1], len(bias))
    return program.graph.call_function(_aten.conv2d.default, arguments)


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _value(program: torch.fx.GraphModule, node: object) -> Tensor:
    path, _, name = str(cast(Node, node).target).rpartition(".")
    return cast(Tensor, getattr(program.get_submodule(path), name)).detach().double()


def _constant(program: torch.fx.GraphModule, values: Tensor) -> Node:
    name = f"folded_{len(program.graph.nodes)}_{len(dict(program.named_buffers()))}"
    program.register_buffer(name, values.float())
    return program.graph.get_attr(name)
