"""Builds the network that a `ResNetSpec` describes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_core.blocks import BLOCKS
from train_core.specs import ResNetSpec, block_shapes, in_stage, squeezed


class ResNet(nn.Module):
    """Maps normalised images [B, C, H, W] to logits [B, num_classes].

    `state_dict` keys follow the structure: stem, stages.<stage>.<block>, final_norm, classifier.
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        stem: list[nn.Module] = [Conv(spec.in_channels, spec.stem_channels, spec.stem_kernel, spec.stem_stride)]
        if spec.stem_end != "none":
            stem.append(_norm(spec, spec.stem_channels))
        if spec.stem_end == "norm-relu":
            stem.append(nn.ReLU(inplace=True))
        if spec.stem_pool:
            stem.append(_pool())
        self.stem = nn.Sequential(*stem)

        build = BLOCKS[spec.block].build
        stages = [
            [build(in_stage(spec, number), *shape) for shape in stage]
            for number, stage in enumerate(block_shapes(spec))
        ]
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        blocks = [block for stage in stages for block in stage]
        if isinstance(blocks[0], PreActBlock):
            blocks[0].shares_activation = spec.shortcut_input == "activated"
        for i, block in enumerate(blocks):
            block.drop_path = spec.drop_path * i / max(len(blocks) - 1, 1)

        inputs = spec.widths[-1]
        self.final_norm = nn.Sequential(_norm(spec, inputs), nn.ReLU(inplace=True)) if spec.final_norm else None
        self.head_dropout = nn.Dropout(spec.head_dropout)
        self.classifier = nn.Linear(inputs, spec.num_classes)
        self._initialise(spec)

    def _initialise(self, spec: ResNetSpec) -> None:
        """Draw the weights of convolutions from N(0, 2 / fan_out) (He et al. 2015, arXiv:1502.01852, eq. 14).

        Without batch norm, activations would grow with every block; each block then starts as its shortcut
        (Zhang et al. 2019, Fixup, arXiv:1901.09321).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if spec.zero_init or spec.norm == "none":
            for module in self.modules():
                if isinstance(module, ResidualBlock) and module.shortcut is not None:
                    nn.init.zeros_(module.last_layer.weight)  # type: ignore[arg-type]  # a tensor

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        features = self.stages(self.stem(images))
        if self.final_norm is not None:
            features = self.final_norm(features)
        logits: Tensor = self.classifier(self.head_dropout(_mean_of_pixels(features)))
        return logits


class ResidualBlock(nn.Module):
    """Maps features [B, inputs, H, W] to [B, width, H / stride, W / stride], rounded up: a branch and a shortcut.

    Subclasses make their layers and write the branch. The shortcut is None if the spec leaves it out.
    """

    last_layers: tuple[str, ...]  # of the branch, from the end; the first that has weights is its last layer
    shortcut: nn.Module | None
    drop_path = 0.0  # probability that an image skips the branch in training

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__()

    @property
    def last_layer(self) -> nn.Module:
        """The branch's last layer with weights: when they are zero, the block is its shortcut."""
        layers: list[nn.Module] = [getattr(self, name) for name in self.last_layers]
        return next(layer for layer in layers if hasattr(layer, "weight"))

    def branch(self, x: Tensor) -> Tensor:
        """Features [B, width, H / stride, W / stride]."""
        raise NotImplementedError

    def add(self, branch: Tensor, x: Tensor) -> Tensor:
        """The branch's features plus the shortcut of x; only the branch's features if there is no shortcut."""
        if self.shortcut is None:
            return branch
        if self.training and self.drop_path:  # Huang et al. 2016, arXiv:1603.09382
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
            branch = branch * (kept / (1 - self.drop_path)).to(branch.dtype)
        branch += self.shortcut(x)  # in place: no backward pass needs the two terms
        return branch

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, width, H / stride, W / stride] of x."""
        return self.add(self.branch(x), x)


class BasicBlock(ResidualBlock):
    """conv-norm-ReLU-conv-norm, added to the shortcut, then ReLU (He et al. 2016, arXiv:1512.03385)."""

    last_layers = ("norm2", "conv2")

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        self.conv1 = Conv(inputs, width, spec.k1, stride)
        self.norm1 = _norm(spec, width)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv2 = Conv(width, width, spec.k2)
        self.norm2 = _norm(spec, width)
        self.se = _excitation(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        features: Tensor = self.se(self.norm2(self.conv2(self.dropout(out))))
        return features

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class PreActBlock(ResidualBlock):
    """norm-ReLU-conv-norm-ReLU-conv, added to the shortcut (He et al. 2016, arXiv:1603.05027).

    The shortcut takes the input of the block. If the spec says so, it takes the output of the first norm and ReLU:
    where it changes the shape, and in the network's first block, as in the paper's appendix and in wide residual
    networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146).
    """

    last_layers = ("conv2",)

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        self.norm1 = _norm(spec, inputs)
        self.conv1 = Conv(inputs, width, spec.k1, stride)
        self.norm2 = _norm(spec, width)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv2 = Conv(width, width, spec.k2)
        self.se = _excitation(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)
        self.shares_activation = spec.shortcut_input == "activated" and not isinstance(self.shortcut, nn.Identity)

    def branch(self, x: Tensor) -> Tensor:
        """Features of x, to which the first norm and ReLU have been applied."""
        out = F.relu(self.norm2(self.conv1(x)), inplace=True)
        features: Tensor = self.se(self.conv2(self.dropout(out)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        # Not in place on `norm1(x)`: without norms that is `x` itself, which the shortcut still needs.
        activated = F.relu(self.norm1(x))
        return self.add(self.branch(activated), activated if self.shares_activation else x)


class BottleneckBlock(ResidualBlock):
    """conv-norm-ReLU-conv-norm-ReLU-conv-norm, added to the shortcut, then ReLU (He et al. 2016, arXiv:1512.03385).

    The middle convolution has the stride, as in torchvision. With groups, this is the block of Xie et al. 2017
    (arXiv:1611.05431).
    """

    last_layers = ("norm3", "conv3")

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        inner = width // spec.expansion
        self.conv1 = Conv(inputs, inner, 1)
        self.norm1 = _norm(spec, inner)
        self.conv2 = Conv(inner, inner, spec.k1, stride, spec.groups)
        self.norm2 = _norm(spec, inner)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv3 = Conv(inner, width, 1)
        self.norm3 = _norm(spec, width)
        self.se = _excitation(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = F.relu(self.norm2(self.conv2(out)), inplace=True)
        features: Tensor = self.se(self.norm3(self.conv3(self.dropout(out))))
        return features

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class PreActBottleneckBlock(PreActBlock):
    """norm and ReLU before each of the three convolutions of a bottleneck (He et al. 2016, arXiv:1603.05027)."""

    last_layers = ("conv3",)

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        ResidualBlock.__init__(self, spec, inputs, width, stride)
        inner = width // spec.expansion
        self.norm1 = _norm(spec, inputs)
        self.conv1 = Conv(inputs, inner, 1)
        self.norm2 = _norm(spec, inner)
        self.conv2 = Conv(inner, inner, spec.k1, stride, spec.groups)
        self.norm3 = _norm(spec, inner)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv3 = Conv(inner, width, 1)
        self.se = _excitation(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)
        self.shares_activation = spec.shortcut_input == "activated" and not isinstance(self.shortcut, nn.Identity)

    def branch(self, x: Tensor) -> Tensor:
        """Features of x, to which the first norm and ReLU have been applied."""
        out = F.relu(self.norm2(self.conv1(x)), inplace=True)
        out = F.relu(self.norm3(self.conv2(out)), inplace=True)
        features: Tensor = self.se(self.conv3(self.dropout(out)))
        return features


class PyramidBlock(ResidualBlock):
    """norm-conv-norm-ReLU-conv-norm, added to the shortcut (Han et al. 2017, arXiv:1610.02915)."""

    last_layers = ("norm3", "conv2")

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        self.norm1 = _norm(spec, inputs)
        self.conv1 = Conv(inputs, width, spec.k1, stride)
        self.norm2 = _norm(spec, width)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv2 = Conv(width, width, spec.k2)
        self.norm3 = _norm(spec, width)
        self.se = _excitation(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm2(self.conv1(self.norm1(x))), inplace=True)
        features: Tensor = self.se(self.norm3(self.conv2(self.dropout(out))))
        return features


class PyramidBottleneckBlock(ResidualBlock):
    """As `PyramidBlock`, with the three convolutions of a bottleneck: no ReLU follows the first norm or the last."""

    last_layers = ("norm4", "conv3")

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        inner = width // spec.expansion
        self.norm1 = _norm(spec, inputs)
        self.conv1 = Conv(inputs, inner, 1)
        self.norm2 = _norm(spec, inner)
        self.conv2 = Conv(inner, inner, spec.k1, stride, spec.groups)
        self.norm3 = _norm(spec, inner)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv3 = Conv(inner, width, 1)
        self.norm4 = _norm(spec, width)
        self.se = _excitation(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm2(self.conv1(self.norm1(x))), inplace=True)
        out = F.relu(self.norm3(self.conv2(out)), inplace=True)
        features: Tensor = self.se(self.norm4(self.conv3(self.dropout(out))))
        return features


class InvertedResidualBlock(ResidualBlock):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution back, each with a norm.

    The first two are followed by ReLU6; nothing follows the sum (Sandler et al. 2018, MobileNetV2, arXiv:1801.04381).
    Squeeze-and-excitation scales the channels inside (Howard et al. 2019, MobileNetV3, arXiv:1905.02244).
    """

    last_layers = ("norm3", "conv3")

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        inner = inputs * spec.expansion
        self.conv1 = Conv(inputs, inner, 1)
        self.norm1 = _norm(spec, inner)
        self.conv2 = Conv(inner, inner, spec.k1, stride, inner)
        self.norm2 = _norm(spec, inner)
        self.se = _excitation(spec, inner)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv3 = Conv(inner, width, 1)
        self.norm3 = _norm(spec, width)
        self.shortcut = _shortcut(spec, inputs, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out = F.relu6(self.norm1(self.conv1(x)), inplace=True)
        out = F.relu6(self.norm2(self.conv2(out)), inplace=True)
        features: Tensor = self.norm3(self.conv3(self.dropout(self.se(out))))
        return features


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, squeezed(width, ratio), bias=False)
        self.excite = nn.Linear(squeezed(width, ratio), width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(_mean_of_pixels(x)), inplace=True)).sigmoid()
        scaled: Tensor = x * gate[:, :, None, None]
        return scaled


def _mean_of_pixels(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C]."""
    # On CUDA in this order: the gradient then has the memory format of x. Exported models use the plain form.
    return x.permute(0, 2, 3, 1).mean(dim=(1, 2)) if x.is_cuda else x.mean(dim=(2, 3))


def _excitation(spec: ResNetSpec, width: int) -> nn.Module:
    return SqueezeExcitation(width, spec.se_reduction) if spec.se_reduction else nn.Identity()


def _shortcut(spec: ResNetSpec, inputs: int, width: int, stride: int) -> nn.Module | None:
    """The identity, or if the shape changes, the shortcut of the spec."""
    if inputs == width and stride == 1:
        return nn.Identity()
    if spec.shortcut == "none":
        return None
    if spec.shortcut == "pad":
        return PadShortcut(inputs, width, stride)
    layers: list[nn.Module] = []
    if spec.shortcut_norm == "before":
        layers.append(_norm(spec, inputs))
    if spec.shortcut == "max-pool" and stride == 2:
        layers += [_pool(), Conv(inputs, width, spec.shortcut_kernel)]
    else:
        layers.append(Conv(inputs, width, spec.shortcut_kernel, stride))
    if spec.shortcut_norm == "after":
        layers.append(_norm(spec, width))
    return nn.Sequential(*layers)


class PadShortcut(nn.Module):
    """The mean of each 2x2 pixels if there is a stride, and channels of zeros (Han et al. 2017, arXiv:1610.02915).

    If the output has fewer channels, the last ones are left out.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.missing = width - inputs
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(x)
        if self.missing < 0:
            return pooled[:, : self.missing]
        return F.pad(pooled, (0, 0, 0, 0, 0, self.missing))


class BatchNorm(nn.BatchNorm2d):
    """torch's, without counting batches: nothing reads the count, and counting costs a kernel in each step."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


class Conv(nn.Conv2d):
    """A convolution without bias whose padding keeps the size at stride 1.

    In training on a CPU, a 1x1 kernel with a stride is computed with stride 1 on every second pixel: the values are the
    same. oneDNN's backward pass of the other form writes outside its memory if there are few input channels
    (uxlfoundation/oneDNN#6035), which ends the process. Evaluation and exported models keep the stride.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.kernel_size == (1, 1) and self.stride != (1, 1) and x.device.type == "cpu":
            down, right = self.stride
            return F.conv2d(x[:, :, ::down, ::right], self.weight, groups=self.groups)
        return super().forward(x)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


def _norm(spec: ResNetSpec, channels: int) -> nn.Module:
    return BatchNorm(channels) if spec.norm == "batch" else nn.Identity()
