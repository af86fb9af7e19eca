"""What is trained (`ResNetSpec`) and how (`TrainSpec`), and what a network costs, without building it.

Imports no torch, so a command can count parameters quickly.
"""

import math
from collections import Counter
from collections.abc import Mapping
from copy import copy
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train_core.blocks import BLOCKS, OPTIONAL, BlockName
from train_core.mix import MIXES, MixName
from train_core.optimizers import OPTIMIZERS, OptimizerName

Kernel = Literal[1, 3, 5, 7]
Probability = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]

ShortcutType = Literal["conv", "max-pool", "pad", "none"]
ShortcutNorm = Literal["after", "before", "none"]
ShortcutInput = Literal["block", "activated"]
StemEnd = Literal["norm-relu", "norm", "none"]
Norm = Literal["batch", "none"]
Stride = Literal[1, 2]
ScheduleName = Literal["cosine", "one-cycle", "multi-step", "step", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]
Start = Literal["random", "imagenet"]
Keep = Literal["last", "best"]
PolicyName = Literal["none", "trivial-augment"]
FlipOrder = Literal["random", "alternating"]
ClassWeights = Literal["none", "balanced"]

ANNEALED = frozenset({"cosine", "one-cycle"})
"""Schedules whose rate reaches zero at the end of a run."""


class Frozen(BaseModel):
    """An immutable, keyword-only value that is validated when it is made and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResNetSpec(Frozen):
    """A residual network for images (He et al. 2016, arXiv:1512.03385 and arXiv:1603.05027).

    Stage i has `blocks[i]` residual blocks of `widths[i]` output channels; its first block has stride `strides[i]`. If
    every block has its own width, `widths` lists them all. Convolutions have no bias; the linear classifier has one.
    Padding keeps the size at stride 1.
    """

    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=1000)] = Field(
        description="output channels of each stage, or of each block (Han et al. 2017, arXiv:1610.02915)"
    )
    blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=5)] = Field(
        description="number of residual blocks in each stage"
    )
    strides: tuple[Stride, ...] = Field(
        default=(),
        description="stride of the first block of each stage; empty: 1 for the first stage, 2 for the others",
    )
    in_channels: PositiveInt = Field(default=3, description="channels of the input images: 1 grey, 3 RGB")
    num_classes: PositiveInt = Field(default=10, description="number of outputs of the classifier")
    stem_width: PositiveInt | None = Field(
        default=None, description="channels of the first convolution; none: the width of the first stage"
    )
    stem_kernel: Kernel = Field(default=3, description="kernel size of the first convolution, in pixels")
    stem_stride: Stride = Field(default=1, description="stride of the first convolution")
    stem_pool: bool = Field(default=False, description="3x3 max pool of stride 2 after the first convolution")
    stem_end: StemEnd = Field(
        default="norm-relu",
        description="what follows the first convolution. norm: a norm only, as in the original pyramid networks; none: "
        "nothing, as in the original preact networks, whose first block begins with norm and ReLU",
    )
    block: BlockName = Field(
        default="basic", description="; ".join(f"{name}: {block.description}" for name, block in BLOCKS.items())
    )
    final_norm: bool = Field(
        default=False,
        description="adds norm and ReLU after the last stage, where no ReLU follows its last block (He et al. 2016)",
    )
    k1: Kernel = Field(
        default=3,
        description="kernel size of the first convolution of a block, in pixels; of the middle one if there are three",
    )
    k2: Kernel = Field(
        default=3, description="kernel size of the second convolution of a block with two of them, in pixels"
    )
    max_kernels: tuple[Kernel, ...] = Field(
        default=(),
        description="largest kernel size in the blocks of each stage, in pixels, where k1, k2 or shortcut_kernel is "
        "larger; empty: no limit",
    )
    expansion: PositiveInt = Field(
        default=4,
        description="bottleneck blocks: output channels divided by the channels inside (He et al. 2016: 4; Xie et al. "
        "2017: 2); inverted-residual blocks: channels inside divided by input channels (Sandler et al. 2018: 6)",
    )
    groups: PositiveInt = Field(
        default=1,
        description="groups of the middle convolution of bottleneck blocks (Xie et al. 2017, ResNeXt, "
        "arXiv:1611.05431)",
    )
    shortcut: ShortcutType = Field(
        default="conv",
        description="shortcut of a block that changes the shape. conv: a convolution with the stride; max-pool: a 3x3 "
        "max pool with the stride, then a convolution of stride 1 (Duta et al. 2020, arXiv:2004.04989); pad: a 2x2 "
        "mean pool with the stride, and channels of zeros (Han et al. 2017); none: no shortcut there (Sandler et al. "
        "2018)",
    )
    shortcut_kernel: Kernel = Field(default=1, description="kernel size of the convolution in the shortcut, in pixels")
    shortcut_norm: ShortcutNorm = Field(
        default="after", description="position of the norm in the shortcut: before or after its convolution, or none"
    )
    shortcut_input: ShortcutInput = Field(
        default="block",
        description="input of the shortcut. block: that of the block; activated: in the first block, and in blocks "
        "that change the shape, what the first norm and ReLU of the block give (He et al. 2016, arXiv:1603.05027)",
    )
    se_reduction: int = Field(
        default=0,
        ge=0,
        description="reduction r of squeeze-and-excitation: C // r hidden units (Hu et al. 2018); 0: none",
    )
    block_dropout: Probability = Field(
        default=0.0,
        description="dropout probability before the last convolution of a block (Zagoruyko & Komodakis 2016)",
    )
    head_dropout: Probability = Field(default=0.0, description="dropout probability before the classifier")
    drop_path: Probability = Field(
        default=0.0,
        description="stochastic depth: probability that an image skips the branch of the last block, falling linearly "
        "to 0 before the first (Huang et al. 2016, arXiv:1603.09382)",
    )
    zero_init: bool = Field(
        default=False,
        description="each block starts as its shortcut: the branch's last norm, or its last convolution where no norm "
        "follows, has weights of zero (Goyal et al. 2017, arXiv:1706.02677)",
    )
    norm: Norm = Field(default="batch", description="batch: batch normalisation; none: no normalisation")

    @model_validator(mode="before")
    @classmethod
    def _default_strides(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("strides") and isinstance(values.get("blocks"), list | tuple):
            return {**values, "strides": (1, *[2] * (len(values["blocks"]) - 1))}
        return values

    @model_validator(mode="after")
    def _same_stages(self) -> Self:
        if len(self.blocks) != len(self.strides) or len(self.widths) not in (len(self.blocks), sum(self.blocks)):
            raise ValueError(
                f"widths, blocks and strides must name the same number of stages, not {len(self.widths)}, "
                f"{len(self.blocks)} and {len(self.strides)}; or widths one for each of the {sum(self.blocks)} blocks"
            )
        return self

    @model_validator(mode="after")
    def _limits_each_stage(self) -> Self:
        if self.max_kernels and len(self.max_kernels) != len(self.blocks):
            raise ValueError(
                f"max_kernels must have one number for each of the {len(self.blocks)} stages, "
                f"not {len(self.max_kernels)}"
            )
        return self

    @model_validator(mode="after")
    def _uses_all_that_is_set(self) -> Self:
        values = self.__dict__
        for name, (owner, _) in _unused(values).items():
            if values[name] != type(self).model_fields[name].default:
                value = str(values[name]).lower()
                raise ValueError(f'{name} = {value} has no effect with {owner} = "{values[owner]}": leave it out')
        return self

    @model_validator(mode="after")
    def _widths_divide(self) -> Self:
        step = width_step(self.__dict__)
        if wrong := [width for width in self.widths if width % step]:
            raise ValueError(
                f"widths of {self.block} blocks must be multiples of expansion x groups = {step}, not {wrong[0]}"
            )
        return self

    @property
    def stem_channels(self) -> int:
        """Channels between the stem and the first stage."""
        return self.stem_width or self.widths[0]

    def __str__(self) -> str:
        """The network in a few words: `[32,64,128] x [2,2,2] preact, 1x1 stem`, and all that is not the default."""
        widths = [dict.fromkeys((stage[0].width, stage[-1].width)) for stage in block_shapes(self)]
        words = [f"[{','.join('-'.join(map(str, ends)) for ends in widths)}] x [{','.join(map(str, self.blocks))}]"]
        words[0] += f" {self.block}"
        if BLOCKS[self.block].uses & {"expansion", "groups"}:
            words[0] += f" x{self.expansion}" + (f" in {self.groups} groups" if self.groups != 1 else "")
        if self.strides != (1, *[2] * (len(self.blocks) - 1)):
            words.append(f"strides [{','.join(map(str, self.strides))}]")
        if "k2" not in BLOCKS[self.block].uses:
            words += [f"kernel {self.k1}"] if self.k1 != 3 else []
        elif (self.k1, self.k2) != (3, 3):
            words.append(f"kernels {self.k1} and {self.k2}")
        if self.max_kernels:
            words.append(f"at most {','.join(map(str, self.max_kernels))} in the stages")
        kernel = f"{self.stem_kernel}x{self.stem_kernel}"
        stem = f"{kernel} stem" if self.stem_stride == 1 else f"{kernel}/{self.stem_stride} stem"
        stem += f" of {self.stem_channels}" if self.stem_channels != self.widths[0] else ""
        stem += {"norm-relu": "", "norm": " without ReLU", "none": " without norm"}[self.stem_end]
        words.append(stem + (" and pool" if self.stem_pool else ""))
        if self.shortcut != "conv":
            words.append(
                "no shortcut where the shape changes" if self.shortcut == "none" else f"{self.shortcut} shortcut"
            )
        if self.shortcut_kernel != 1:
            words.append(f"{self.shortcut_kernel}x{self.shortcut_kernel} shortcut")
        if self.se_reduction:
            words.append(f"SE {self.se_reduction}")
        if self.shortcut_norm != "after":
            words.append("no shortcut norm" if self.shortcut_norm == "none" else "norm before shortcuts")
        if self.shortcut_input == "activated":
            words.append("activated shortcut")
        if self.final_norm:
            words.append("final norm")
        if self.norm == "none":
            words.append("no norm")
        if self.block_dropout or self.head_dropout:
            words.append(f"dropout {self.block_dropout:g} and {self.head_dropout:g}")
        if self.drop_path:
            words.append(f"stochastic depth {self.drop_path:g}")
        if self.zero_init:
            words.append("zero-initialised blocks")
        return ", ".join(words)


BLOCK_KERNELS = ("k1", "k2", "shortcut_kernel")
"""Fields that are kernel sizes of blocks."""


def in_stage(spec: ResNetSpec, stage: int) -> ResNetSpec:
    """The spec with the kernel sizes that the blocks of this stage have; the first stage is 0."""
    if not spec.max_kernels:
        return spec
    limited = copy(spec)
    # Not a method of the spec: the code in a model card replaces the spec by a plain namespace.
    limited.__dict__.update({name: min(getattr(spec, name), spec.max_kernels[stage]) for name in BLOCK_KERNELS})
    return limited


def unused(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ResNetSpec` that have no effect with these values of the others, and their defaults."""
    return {name: default for name, (_, default) in _unused(values).items()}


def _unused(values: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The same fields; each with the field that is the reason, and its default."""
    names = dict.fromkeys(OPTIONAL - BLOCKS[values["block"]].uses, "block")
    if values["shortcut"] in ("pad", "none"):
        names |= dict.fromkeys(("shortcut_kernel", "shortcut_norm", "shortcut_input"), "shortcut")
    return {name: (owner, ResNetSpec.model_fields[name].default) for name, owner in names.items()}


def width_step(values: Mapping[str, Any]) -> int:
    """Every width of a network with these fields is a multiple of this, so the number of inner channels is whole."""
    step: int = values["expansion"] * values["groups"] if BLOCKS[values["block"]].narrows else 1
    return step


class BlockShape(NamedTuple):
    """Channels of a block's input and output, and its stride."""

    inputs: int
    width: int
    stride: int


def block_shapes(spec: ResNetSpec) -> list[list[BlockShape]]:
    """The shapes of the blocks of each stage."""
    widths = list(spec.widths)
    if len(widths) == len(spec.blocks):  # one for each stage
        widths = [width for width, blocks in zip(spec.widths, spec.blocks, strict=True) for _ in range(blocks)]
    inputs, stages = spec.stem_channels, []
    for blocks, stride in zip(spec.blocks, spec.strides, strict=True):
        stage, widths = widths[:blocks], widths[blocks:]
        strides = [stride, *[1] * (blocks - 1)]
        stages.append([BlockShape(*shape) for shape in zip([inputs, *stage], stage, strides, strict=False)])
        inputs = stage[-1]
    return stages


class AugmentSpec(Frozen):
    """Random changes to the training images, drawn for each image in each epoch. Zero (or one) means no change."""

    crop_padding: int = Field(
        default=4,
        ge=0,
        le=1024,
        description="width in pixels of a black border; a random crop of the original size follows",
    )
    flip: bool = Field(default=True, description="flips half of the images horizontally")
    flip_order: FlipOrder = Field(
        default="random",
        description="which images are flipped. random: drawn again in each epoch; alternating: each image in every "
        "second pass over the images, and drawn in the first pass only (Jordan 2024, arXiv:2404.00498); no effect "
        "without flip",
    )
    policy: PolicyName = Field(
        default="none",
        description="random operations on the pixels, after crop and flip. trivial-augment: one of 14 operations with "
        "one of 31 strengths for each image (TrivialAugment wide, Müller & Hutter 2021, arXiv:2103.10158)",
    )
    cutout: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="side in pixels of a square that is masked in each image (DeVries & Taylor 2017); 0: none",
    )
    rotation: float = Field(default=0.0, ge=0, le=180, description="largest rotation in degrees, in both directions")
    enlarge: float = Field(
        default=1.0,
        ge=1,
        le=4,
        description="factor by which images are enlarged; a random crop of the original size follows; 1: none",
    )
    resize_crop: float = Field(
        default=1.0, gt=0, le=1, description="smallest share of the area in a random resized crop; 1: none"
    )
    perspective: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="strength of a random perspective distortion, applied to half of the images",
    )
    brightness: float = Field(
        default=0.0, ge=0, le=1, description="strength x: the factor is drawn from 1 - x to 1 + x"
    )
    contrast: float = Field(default=0.0, ge=0, le=1, description="strength x: the factor is drawn from 1 - x to 1 + x")
    saturation: float = Field(
        default=0.0, ge=0, le=1, description="strength x: the factor is drawn from 1 - x to 1 + x"
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="strength x: the shift is drawn from -x to x, in turns of the colour wheel",
    )
    erasing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability that a random box of 2 to 33 % of the image is masked (Zhong et al. 2020, "
        "arXiv:1708.04896)",
    )


class CopySpec(AugmentSpec):
    """One fixed copy of all training images. By default, the images are not changed."""

    crop_padding: int = Field(default=0, ge=0, le=1024, description="as above")
    flip: bool = Field(default=False, description="as above")
    # Not a field: a copy is made once, so there is no second pass in which its images could be flipped.
    flip_order: ClassVar[FlipOrder] = "random"  # type: ignore[misc]  # pydantic then leaves the field out
    mirror: bool = Field(default=False, description="flips all images horizontally")


class TrainSpec(Frozen):
    """A recipe. Every duration is a share of the run, so a short run is a complete run of fewer epochs."""

    epochs: int = Field(
        ge=1, description="number of epochs; an epoch has as many images as the training split, or as all its copies"
    )
    data_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the training images that is used; an epoch passes over them several times",
    )
    copies: tuple[CopySpec, ...] = Field(
        default=(),
        max_length=32,
        description="fixed copies that replace the training images, drawn once from the seed; empty: the images "
        "themselves",
    )
    start: Start = Field(
        default="random", description="initial weights: random, or those of torchvision's ResNet-18 trained on ImageNet"
    )
    keep: Keep = Field(
        default="last",
        description="final weights: those of the last epoch, or of the epoch with the best validation accuracy",
    )
    batch_size: int = Field(default=128, ge=1, description="images per training step")
    optimizer: OptimizerName = Field(
        default="sgd", description="; ".join(f"{name}: {each.description}" for name, each in OPTIMIZERS.items())
    )
    lr: float = Field(default=0.1, gt=0, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD and RMSprop; beta1 of the others")
    beta2: float = Field(
        default=0.999, ge=0, lt=1, description="beta2 of Adam, AdamW, NAdam, RAdam and Muon's AdamW (Lion: 0.99)"
    )
    nesterov: bool = Field(default=False, description="uses Nesterov momentum (SGD and Muon)")
    weight_decay: float = Field(
        default=5e-4,
        ge=0,
        description="weight decay: an L2 penalty for SGD, Adam and RMSprop, decoupled for the others (Loshchilov & "
        "Hutter 2019)",
    )
    decay_norm_and_bias: bool = Field(default=False, description="applies weight decay to norms and biases as well")
    schedule: ScheduleName = Field(
        default="cosine", description="learning-rate schedule over the run, updated before every batch"
    )
    warmup: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the run in which the rate rises from zero (one-cycle has its own warm-up of 0.3)",
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.3, 0.6, 0.8),
        description="multi-step: the rate is multiplied by gamma after each of these shares of the run",
    )
    step_every: float = Field(
        default=0.25, gt=0, le=1, description="step: the rate is multiplied by gamma after each such share of the run"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor of the multi-step and step schedules")
    label_smoothing: Probability = Field(
        default=0.0, description="probability mass moved from the true class to all classes; 0: none"
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="how much an image counts in the loss. none: all images count the same; balanced: an image counts "
        "in inverse proportion to the number of training images of its class, 1 in the mean over the images",
    )
    clip_norm: float = Field(default=0.0, ge=0, description="largest L2 norm of the whole gradient; 0: no clipping")
    clip_value: float = Field(
        default=0.0, ge=0, description="largest absolute value of each element of the gradient; 0: no clipping"
    )
    ema_decay: Probability = Field(
        default=0.0,
        description="decay per step of the averaged weights, which are then scored; 0: the last weights are scored",
    )
    asam: float = Field(
        default=0.0,
        ge=0,
        description="radius of adaptive sharpness-aware steps, which take twice the time (Kwon et al. 2021, "
        "arXiv:2102.11600: 0.5 for CIFAR-10, 1 for CIFAR-100); 0: plain steps",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="random seed for initialisation, order of the images, augmentation and dropout",
    )
    precision: Precision = Field(default="fp32", description="fp32, or bf16 or fp16 autocast")
    mix: MixName = Field(
        default="none",
        description="training images that are mixed with each other, and their labels in the same shares. "
        + "; ".join(f"{name}: {each.description}" for name, each in MIXES.items()),
    )
    mix_alpha: float = Field(
        default=0.0,
        ge=0,
        description="the shares of mixed images are drawn from Beta(alpha, alpha); 0: the alpha of the paper, "
        + ", ".join(f"{each.alpha:g} for {name}" for name, each in MIXES.items() if name != "none"),
    )
    mix_share: float = Field(default=1.0, gt=0, le=1, description="probability that a batch is mixed")
    mix_off: Probability = Field(default=0.0, description="share of the run, at its end, without mixed images")
    augment: AugmentSpec = AugmentSpec()

    @model_validator(mode="after")
    def _milestones_rise(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError("milestones must rise")
        return self

    @model_validator(mode="after")
    def _part_or_copies(self) -> Self:
        if self.copies and self.data_fraction < 1:
            raise ValueError("a part of the images and copies of them do not go together")
        return self

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        if self.mix == "none":
            for name in MIX_SETTINGS:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect without mixed images: set mix, or leave {name} out")
        return self

    @property
    def alpha(self) -> float:
        """The parameter of the beta distribution of the shares of mixed images."""
        return self.mix_alpha or MIXES[self.mix].alpha

    @model_validator(mode="after")
    def _asam_and_precision(self) -> Self:
        if self.asam and self.precision == "fp16":
            raise ValueError("asam does not work in fp16, whose gradients may overflow: use bf16 or fp32")
        return self

    def __str__(self) -> str:
        """The recipe in a few words, for example `sgd, lr 0.1, cosine, batch 128, 30 epochs`."""
        length = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        length += f" on {self.data_fraction:.0%} of the images" if self.data_fraction < 1 else ""
        return ", ".join([*self._basics(), length, *self._extras()])

    @property
    def method(self) -> str:
        """The recipe without its length, for example `sgd, lr 0.1, cosine, batch 128, cutmix`."""
        return ", ".join([*self._basics(), *self._extras()])

    def _basics(self) -> list[str]:
        return [self.optimizer, f"lr {self.lr:.3g}", self.schedule, f"batch {self.batch_size}"]

    def _extras(self) -> list[str]:
        words = []
        if self.mix != "none":
            words.append(self.mix + (f" in {self.mix_share:.0%} of the batches" if self.mix_share < 1 else ""))
            words += [f"without it in the last {self.mix_off:.0%}"] if self.mix_off else []
        words += [self.augment.policy] if self.augment.policy != "none" else []
        words += [f"erasing {self.augment.erasing:g}"] if self.augment.erasing else []
        words += ["alternating flips"] if self.augment.flip and self.augment.flip_order == "alternating" else []
        words += ["balanced class weights"] if self.class_weights == "balanced" else []
        return words + ([f"asam {self.asam:g}"] if self.asam else [])


MIX_SETTINGS = ("mix_alpha", "mix_share", "mix_off")
"""Fields that have an effect only if images are mixed."""


def num_params(spec: ResNetSpec) -> int:
    """Trainable parameters of the network, in closed form; equals the built model's count."""
    return sum(params_by_part(spec))


def params_by_part(spec: ResNetSpec) -> list[int]:
    """Trainable parameters of the stem, of each stage, and of the head: the final norm and the classifier."""
    norm = 2 if spec.norm == "batch" else 0  # scale and shift of a channel
    stem_norm = norm * spec.stem_channels if spec.stem_end != "none" else 0
    parts = [spec.in_channels * spec.stem_channels * spec.stem_kernel**2 + stem_norm]
    kind = BLOCKS[spec.block]
    for number, stage in enumerate(_different_blocks(spec)):
        here, total = in_stage(spec, number), 0
        for shape, count in stage.items():
            inputs, width, _ = shape
            block = norm * sum(kind.norms(here, inputs, width))
            for each in kind.convolutions(here, inputs, width):
                block += each.parameters
            if spec.se_reduction:
                block += _excitation(spec, shape)
            if convolves(spec, shape):
                block += inputs * width * here.shortcut_kernel**2
                block += norm * {"after": width, "before": inputs, "none": 0}[spec.shortcut_norm]
            total += count * block
        parts.append(total)
    channels = spec.widths[-1]
    final_norm = norm * channels if spec.final_norm else 0
    return [*parts, final_norm + channels * spec.num_classes + spec.num_classes]


def num_madds(spec: ResNetSpec, side: int | tuple[int, int]) -> int:
    """Multiply-adds of one forward pass: convolutions and linear layers, as the papers count.

    `side` is the side of a square image in pixels, or its height and width.
    """
    return sum(madds_by_part(spec, side))


def madds_by_part(spec: ResNetSpec, side: int | tuple[int, int]) -> list[int]:
    """Multiply-adds of the stem, of each stage, and of the head."""
    before_pool = math.prod(_after(each, spec.stem_stride) for each in height_and_width(side))
    parts = [before_pool * spec.in_channels * spec.stem_channels * spec.stem_kernel**2]
    kind = BLOCKS[spec.block]
    sizes = pairwise(sizes_by_part(spec, side))
    for number, (stage, (before, after)) in enumerate(zip(_different_blocks(spec), sizes, strict=True)):
        here, total, pixels = in_stage(spec, number), 0, math.prod(after)
        for shape, count in stage.items():
            inputs, width, stride = shape
            block = _excitation(spec, shape) if spec.se_reduction else 0
            for each in kind.convolutions(here, inputs, width):
                block += each.parameters * (math.prod(before) if each.before_stride and stride != 1 else pixels)
            if convolves(spec, shape):
                block += pixels * inputs * width * here.shortcut_kernel**2
            total += count * block
        parts.append(total)
    return [*parts, spec.widths[-1] * spec.num_classes]


def _different_blocks(spec: ResNetSpec) -> list[dict[BlockShape, int]]:
    """For each stage, the shapes of its blocks, and how many blocks have each: most are the same."""
    if len(spec.widths) != len(spec.blocks):
        return [Counter(stage) for stage in block_shapes(spec)]
    stages, inputs = [], spec.stem_channels
    for width, blocks, stride in zip(spec.widths, spec.blocks, spec.strides, strict=True):
        first, others = BlockShape(inputs, width, stride), BlockShape(width, width, 1)
        stages.append({first: 1, others: blocks - 1} if first != others else {first: blocks})
        inputs = width
    return stages


def convolves(spec: ResNetSpec, shape: BlockShape) -> bool:
    """Whether the shortcut of a block of this shape is a convolution."""
    return (shape.inputs != shape.width or shape.stride != 1) and spec.shortcut in ("conv", "max-pool")


def sizes_by_part(spec: ResNetSpec, side: int | tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width, in pixels, of the outputs of the stem and of each stage."""
    height, width = height_and_width(side)
    sizes = []
    for stride in (spec.stem_stride * (2 if spec.stem_pool else 1), *spec.strides):
        height, width = _after(height, stride), _after(width, stride)
        sizes.append((height, width))
    return sizes


def height_and_width(side: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image, in pixels; for a square image, both are its side."""
    return (side, side) if isinstance(side, int) else side


def _excitation(spec: ResNetSpec, shape: BlockShape) -> int:
    """Parameters of a block's squeeze-and-excitation, and its multiply-adds."""
    kind = BLOCKS[spec.block]
    channels = kind.convolutions(spec, shape.inputs, shape.width)[kind.excites].outputs
    return 2 * channels * squeezed(channels, spec.se_reduction)


def squeezed(width: int, ratio: int) -> int:
    """Hidden units of a squeeze-and-excitation module."""
    return max(1, width // ratio)


def _after(side: int, stride: int) -> int:
    """Side of the output of a convolution or pool with odd kernel k and padding k // 2."""
    return math.ceil(side / stride)
