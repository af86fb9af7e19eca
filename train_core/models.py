"""Builds the network that a `ResNetSpec` describes."""

from torch import Tensor, nn
from torch.nn import functional as F

from train_core.blocks import BLOCKS
from train_core.specs import ResNetSpec, squeezed


class ResNet(nn.Module):
    """Maps normalised images [B, C, H, W] to logits [B, num_classes].

    `state_dict` keys read as the network does: stem, stages.<stage>.<block>, final_norm, classifier.
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        stem: list[nn.Module] = [Conv(spec.in_channels, spec.stem_channels, spec.stem_kernel, spec.stem_stride)]
        if spec.stem_end == "norm-relu":
            stem += [_norm(spec, spec.stem_channels), nn.ReLU(inplace=True)]
        if spec.stem_pool:
            stem.append(_pool())
        self.stem = nn.Sequential(*stem)

        block = BLOCKS[spec.block].build
        stages, inputs = [], spec.stem_channels
        for width, blocks, stride in zip(spec.widths, spec.blocks, spec.strides, strict=True):
            stage = [block(spec, inputs, width, stride)]
            stage += [block(spec, width, width, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            inputs = width
        self.stages = nn.Sequential(*stages)

        self.final_norm = nn.Sequential(_norm(spec, inputs), nn.ReLU(inplace=True)) if spec.final_norm else None
        self.head_dropout = nn.Dropout(spec.head_dropout)
        self.classifier = nn.Linear(inputs, spec.num_classes)
        self._initialise(spec)

    def _initialise(self, spec: ResNetSpec) -> None:
        """Draw the weights of convolutions from N(0, 2 / fan_out) (He et al. 2015, arXiv:1502.01852, eq. 14).

        Without batch norm, activations would grow with every block; each block then starts as the identity
        (Zhang et al. 2019, Fixup, arXiv:1901.09321).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if spec.norm == "none":
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    nn.init.zeros_(module.last_convolution.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        features = self.stages(self.stem(images))
        if self.final_norm is not None:
            features = self.final_norm(features)
        logits: Tensor = self.classifier(self.head_dropout(_mean_of_pixels(features)))
        return logits


class ResidualBlock(nn.Module):
    """Maps features [B, inputs, H, W] to [B, width, H / stride, W / stride], rounded up."""

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__()

    @property
    def last_convolution(self) -> "Conv":
        """The branch's last one: with weights of zero, the block is its shortcut."""
        raise NotImplementedError


class BasicBlock(ResidualBlock):
    """conv-norm-ReLU-conv-norm, added to the shortcut, then ReLU (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        self.conv1 = Conv(inputs, width, spec.k1, stride)
        self.norm1 = _norm(spec, width)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv2 = Conv(width, width, spec.k2)
        self.norm2 = _norm(spec, width)
        self.se = SqueezeExcitation(width, spec.se_reduction) if spec.se_reduction else nn.Identity()
        self.shortcut = _shortcut(spec, inputs, width, stride)

    @property
    def last_convolution(self) -> "Conv":
        return self.conv2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.se(self.norm2(self.conv2(self.dropout(out))))
        out += self.shortcut(x)  # in place: no backward pass needs the sum's terms
        return F.relu(out, inplace=True)


class PreActBlock(ResidualBlock):
    """norm-ReLU-conv-norm-ReLU-conv, added to the shortcut (He et al. 2016, arXiv:1603.05027).

    The shortcut takes the input of the block, or where it changes the shape and the spec asks, that after the first
    norm and ReLU, as in the paper and in wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146).
    """

    def __init__(self, spec: ResNetSpec, inputs: int, width: int, stride: int) -> None:
        super().__init__(spec, inputs, width, stride)
        self.norm1 = _norm(spec, inputs)
        self.conv1 = Conv(inputs, width, spec.k1, stride)
        self.norm2 = _norm(spec, width)
        self.dropout = nn.Dropout(spec.block_dropout)
        self.conv2 = Conv(width, width, spec.k2)
        self.se = SqueezeExcitation(width, spec.se_reduction) if spec.se_reduction else nn.Identity()
        self.shortcut = _shortcut(spec, inputs, width, stride)
        self.shares_activation = spec.shortcut_input == "activated" and not isinstance(self.shortcut, nn.Identity)

    @property
    def last_convolution(self) -> "Conv":
        return self.conv2

    def forward(self, x: Tensor) -> Tensor:
        # Not in place on `norm1(x)`: without norms that is `x` itself, which the shortcut still needs.
        activated = F.relu(self.norm1(x))
        out: Tensor = self.conv1(activated)
        out = self.se(self.conv2(self.dropout(F.relu(self.norm2(out), inplace=True))))
        out += self.shortcut(activated if self.shares_activation else x)
        return out


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
    # On CUDA in this order: the gradient then has the memory format of x. Exported models have the plain form.
    return x.permute(0, 2, 3, 1).mean(dim=(1, 2)) if x.is_cuda else x.mean(dim=(2, 3))


def _shortcut(spec: ResNetSpec, inputs: int, width: int, stride: int) -> nn.Module:
    """The identity, or where the shape changes a convolution, with a pool before it where the spec asks."""
    if inputs == width and stride == 1:
        return nn.Identity()
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


class BatchNorm(nn.BatchNorm2d):
    """torch's, which does not count its batches: nothing reads the count, and each costs a kernel in each step."""

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

    In training on a CPU, a kernel of one pixel with a stride is computed as one with stride 1 on every second pixel:
    the same values. oneDNN's backward pass of the other form writes outside of its memory when there are few input
    channels (uxlfoundation/oneDNN#6035), which ends the process. Evaluation and exported models keep the stride.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.kernel_size == (1, 1) and self.stride != (1, 1) and x.device.type == "cpu":
            down, right = self.stride
            return F.conv2d(x[:, :, ::down, ::right], self.weight)
        return super().forward(x)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


def _norm(spec: ResNetSpec, channels: int) -> nn.Module:
    return BatchNorm(channels) if spec.norm == "batch" else nn.Identity()
