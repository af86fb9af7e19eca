"""How much memory a network needs for its activations, and how large its file is, in closed form; no torch.

Memory is that of one image, computed one operation after another in the order of the network's code. A tensor takes
memory from the operation that makes it to the last one that reads it. Norms and activation functions after a
convolution are a part of it, as in every exported file. Which operations overwrite their input depends on the runtime
(`Schedule`). Weights are not counted (`num_params`), nor the working memory inside an operation.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from train_core.blocks import BLOCKS, Convolution
from train_core.examples import FormatName
from train_core.specs import (
    BlockShape,
    ResNetSpec,
    block_shapes,
    convolves,
    height_and_width,
    in_stage,
    sizes_by_part,
    squeezed,
)
from train_core.tables import table


@dataclass(frozen=True)
class Schedule:
    """How a runtime uses memory."""

    overwrites: bool
    """Norms, activation functions, additions and scalings overwrite their first input if nothing else reads it."""
    pads: bool
    """A convolution with a stride first copies its input with a border, if its kernel is larger than a pixel."""

    def padded(self, channels: int, size: tuple[int, int], kernel: int, stride: int) -> int:
        """Numbers in the padded copy of `channels` maps of this height and width; 0: there is no copy."""
        if not self.pads or stride == 1 or kernel == 1:
            return 0
        return channels * math.prod(each + 2 * (kernel // 2) for each in size)


IN_PLACE = Schedule(overwrites=True, pads=False)
"""The minimum in the order of the network's code."""
TENSORFLOW_LITE = Schedule(overwrites=False, pads=True)


def peak_activations(spec: ResNetSpec, side: int | tuple[int, int], schedule: Schedule = IN_PLACE) -> int:
    """The most numbers that are in memory at once when the network computes one image, including its pixels.

    `side` is the side of a square image in pixels, or its height and width.
    """
    return max(peaks_by_part(spec, side, schedule))


def peaks_by_part(spec: ResNetSpec, side: int | tuple[int, int], schedule: Schedule = IN_PLACE) -> list[int]:
    """The peaks of the stem, of each stage, and of the head."""
    height, width = height_and_width(side)
    sizes = sizes_by_part(spec, side)
    before_pool = math.ceil(height / spec.stem_stride), math.ceil(width / spec.stem_stride)
    image, stem = spec.in_channels * height * width, spec.stem_channels * math.prod(before_pool)
    padded = schedule.padded(spec.in_channels, (height, width), spec.stem_kernel, spec.stem_stride)
    pooled = stem + spec.stem_channels * math.prod(sizes[0]) if spec.stem_pool else 0
    parts = [max(image + padded, (padded or image) + stem, pooled)]
    for number, (stage, (before, after)) in enumerate(zip(block_shapes(spec), pairwise(sizes), strict=True)):
        here, peak = in_stage(spec, number), 0
        places = [(shape, number == place == 0) for place, shape in enumerate(stage)]
        for shape, is_first in dict.fromkeys(places):
            block = _Block(here, shape, after if shape.stride == 1 else before, after, is_first, schedule)
            peak = max(peak, *block.peaks())
        parts.append(peak)
    features, channels = spec.widths[-1] * math.prod(sizes[-1]), spec.widths[-1]
    return [*parts, max(features + channels, channels + spec.num_classes)]


@dataclass(frozen=True)
class _Block:
    """A block, and the height and width of its input and its output."""

    spec: ResNetSpec
    shape: BlockShape
    before: tuple[int, int]
    after: tuple[int, int]
    is_first: bool  # whether it is the first block of the network
    schedule: Schedule

    def peaks(self) -> Iterator[int]:
        """Numbers in memory at each operation."""
        spec, shape, kind = self.spec, self.shape, BLOCKS[self.spec.block]
        is_identity = shape.inputs == shape.width and shape.stride == 1
        is_added = is_identity or spec.shortcut != "none"
        source = shape.inputs * math.prod(self.before)  # read by the shortcut
        kept = source if is_added else 0  # part of it that is kept while the branch is computed
        now = source  # read next by the branch
        shares = True  # whether both are the same tensor
        if kind.opens == "norm-relu" or (kind.opens == "norm" and spec.norm == "batch"):
            of_both = spec.shortcut_input == "activated" and (self.is_first or not is_identity)
            shares = (kind.opens == "norm-relu" and of_both) or not is_added
            yield source if shares and self.schedule.overwrites else 2 * source
        convolutions = kind.convolutions(spec, shape.inputs, shape.width)
        size, strided = self.before, False
        for place, each in enumerate(convolutions):
            stride = 1 if each.before_stride or strided else shape.stride
            strided = strided or not each.before_stride
            others = 0 if shares else kept
            if padded := self.schedule.padded(each.inputs, size, each.kernel, stride):
                yield now + padded + others
                now, others = padded, kept
            size = self.before if each.before_stride else self.after
            made = each.outputs * math.prod(size)
            yield now + made + others
            now, shares = made, not kept
            if spec.se_reduction and place == range(len(convolutions))[kind.excites]:
                yield from (kept + now + gate for gate in self._gate(each, now))
        if is_added and not is_identity:
            yield from (now + each for each in self._shortcut(source))
        if is_added and not self.schedule.overwrites:
            yield (source if is_identity else now) + 2 * now

    def _gate(self, excited: Convolution, scaled: int) -> Iterator[int]:
        """Numbers in memory at each operation of squeeze-and-excitation, without those that it scales."""
        hidden = squeezed(excited.outputs, self.spec.se_reduction)
        yield excited.outputs + hidden
        yield hidden + excited.outputs
        if not self.schedule.overwrites:
            yield excited.outputs + scaled

    def _shortcut(self, source: int) -> Iterator[int]:
        """Numbers in memory at each operation of the shortcut, without those of the branch."""
        spec, shape = self.spec, self.shape
        made, pooled = shape.width * math.prod(self.after), shape.inputs * math.prod(self.after)
        if shape.stride != 1 and (spec.shortcut == "pad" or (spec.shortcut == "max-pool" and shape.stride == 2)):
            yield source + pooled
            if convolves(spec, shape) or shape.inputs != shape.width:
                yield pooled + made
            return
        kernel = spec.shortcut_kernel if convolves(spec, shape) else 1
        padded = self.schedule.padded(shape.inputs, self.before, kernel, shape.stride)
        yield source + padded
        yield (padded or source) + made


# ------------------------------------------------------------------------------------------------- the exported file


CONTENTS = (
    *("files", "weights", "biases", "norm numbers", "outputs", "excited", "description"),
    *("convolutions", "with bias", "activations", "clips", "norms", "excitations", "additions", "pools", "paddings"),
)
"""The counts of a network that determine the size of its file: numbers, then operations."""


def contents(spec: ResNetSpec) -> dict[str, int]:
    """How many of each of `CONTENTS` an exported file of the network has; norms after convolutions are included."""
    kind, has_norms = BLOCKS[spec.block], spec.norm == "batch"
    found = dict.fromkeys(CONTENTS, 0)

    def add(**numbers: int) -> None:
        for name, number in numbers.items():
            found[name.replace("_", " ")] += number

    def convolution(each: Convolution, has_bias: bool) -> None:
        bias = each.outputs if has_bias else 0
        add(convolutions=1, weights=each.parameters, outputs=each.outputs, biases=bias, with_bias=int(has_bias))

    def norm(channels: int) -> None:
        add(norms=int(has_norms), norm_numbers=channels if has_norms else 0)

    add(files=1, description=_description(spec), pools=int(spec.stem_pool), activations=spec.stem_end == "norm-relu")
    stem = Convolution(spec.in_channels, spec.stem_channels, spec.stem_kernel)
    convolution(stem, has_norms and spec.stem_end != "none")
    for number, stage in enumerate(block_shapes(spec)):
        here = in_stage(spec, number)
        for shape in stage:
            inputs, width, stride = shape
            convolutions = kind.convolutions(here, inputs, width)
            behind = len(kind.norms(here, inputs, width)) - (kind.opens != "nothing")
            for place, each in enumerate(convolutions):
                convolution(each, has_norms and place < behind)
            add(activations=kind.activations, clips=kind.clips)
            if kind.opens != "nothing":
                norm(inputs)
            if spec.se_reduction:
                channels = convolutions[kind.excites].outputs
                hidden = squeezed(channels, spec.se_reduction)
                add(excitations=1, weights=2 * channels * hidden, excited=channels + hidden)
            if convolves(spec, shape):
                convolution(
                    Convolution(inputs, width, here.shortcut_kernel), has_norms and spec.shortcut_norm == "after"
                )
                if spec.shortcut_norm == "before":
                    norm(inputs)
                add(pools=spec.shortcut == "max-pool" and stride == 2)
            is_identity = inputs == width and stride == 1
            add(additions=is_identity or spec.shortcut != "none")
            if spec.shortcut == "pad" and not is_identity:
                add(pools=stride != 1, paddings=inputs != width)
    if spec.final_norm:
        add(activations=1)
        norm(spec.widths[-1])
    add(weights=spec.widths[-1] * spec.num_classes, biases=spec.num_classes, outputs=spec.num_classes)
    return found


def _description(spec: ResNetSpec) -> int:
    """Bytes of a file that describe its network and its classes, with names of usual length."""
    return len(spec.model_dump_json()) + 12 * spec.num_classes


RECORDS_ERROR = 0.09
"""For networks left out of the fit of `Footprint.records`, the records were larger by at most this share."""
FILE_ERROR = 0.02
"""Files to which a closed form was fitted differ from it by at most this share."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The memory and the file of a network in a format."""

    number: int  # bytes of an activation
    schedule: Schedule | None  # of its runtime; None: how much memory that takes is not known
    slack: float = 0.0  # extra memory of the runtime, at most, as a share of the schedule's peak
    records: Mapping[str, float] = field(default_factory=dict)
    """Further bytes of memory, for each of `CONTENTS`."""
    file: Mapping[str, float] | None = None  # bytes of the file for each of `CONTENTS`; None: not known in closed form
    file_error: float = FILE_ERROR  # largest excess of a file that was left out of the fit, as a share


_TFLITE = Footprint(
    number=4,
    schedule=TENSORFLOW_LITE,
    slack=0.5,
    file={
        "weights": 4,
        "biases": 4,
        "outputs": 0.1,
        "norm numbers": 7.3,
        "excited": 0.7,
        "description": 1,
        "files": 2690,
        "convolutions": 266,
        "with bias": 30,
        "activations": -40,
        "clips": -58,
        "norms": 298,
        "excitations": 623,
        "additions": 260,
        "pools": 140,
        "paddings": 468,
    },
)
_TFLITE_INT8 = Footprint(
    number=1,
    schedule=TENSORFLOW_LITE,
    slack=0.5,
    records={
        "outputs": 7.6,
        "norm numbers": 8.1,
        "excited": -0.4,
        "files": 2032,
        "convolutions": 201,
        "with bias": -21,
        "activations": 51,
        "clips": 79,
        "norms": 268,
        "excitations": 1119,
        "additions": 464,
        "pools": 175,
        "paddings": 748,
    },
    file={
        "weights": 1,
        "biases": 0.3,
        "outputs": 27.2,
        "norm numbers": 29.4,
        "excited": 1.8,
        "description": 1,
        "files": 3707,
        "convolutions": 351,
        "with bias": -8,
        "activations": -17,
        "clips": -66,
        "norms": 255,
        "excitations": 759,
        "additions": 351,
        "pools": 178,
        "paddings": 434,
    },
    file_error=0.035,
)
_ARRAY = {
    "weights": 1,
    "biases": 0.2,
    "outputs": 27.1,
    "norm numbers": 29.1,
    "excited": 1.9,
    "files": 2999,
    "convolutions": 318,
    "activations": -25,
    "clips": -71,
    "norms": 234,
    "excitations": 660,
    "additions": 303,
    "pools": 145,
    "paddings": 390,
}

FOOTPRINTS: dict[FormatName, Footprint] = table(
    "format",
    FormatName,
    {
        "onnx": Footprint(
            number=4,
            schedule=IN_PLACE,
            slack=1.4,
            file={
                "weights": 4,
                "biases": 4,
                "norm numbers": 16,
                "description": 1,
                "files": 1246,
                "convolutions": 266,
                "with bias": 530,
                "activations": 4,
                "clips": 13,
                "norms": 652,
                "excitations": 556,
                "additions": 29,
                "pools": 217,
                "paddings": 48,
            },
        ),
        "onnx-int8": Footprint(
            number=1,
            schedule=None,  # onnxruntime took 2.8 to 4 times the peak: it computes a part in float32
            file={
                "weights": 1,
                "outputs": 4.5,
                "biases": 12.3,
                "norm numbers": 18.4,
                "excited": 6.3,
                "description": 1,
                "files": 1500,
                "convolutions": 426,
                "with bias": 600,
                "activations": 1,
                "clips": 5,
                "norms": 871,
                "excitations": 1260,
                "additions": 299,
                "pools": 284,
                "paddings": 96,
            },
        ),
        "pt2": Footprint(number=4, schedule=None),
        "safetensors": Footprint(number=4, schedule=None),
        "tflite": _TFLITE,
        "tflite-int8": _TFLITE_INT8,
        "tflite-header": replace(_TFLITE_INT8, file=_ARRAY),
    },
)
"""By format, without torch. The bytes of the operations are fitted to files (`python -m benchmarks.file_sizes`); the
extra memory of a runtime is measured (`python -m benchmarks.memory`)."""


def memory(spec: ResNetSpec, side: int | tuple[int, int], fmt: FormatName) -> float:
    """Bytes that the runtime of a format takes at most for one image, without the weights, which may be in flash.

    Raises:
        ValueError: not known for this format.

    """
    form = FOOTPRINTS[fmt]
    if form.schedule is None:
        raise ValueError(f"how much memory a {fmt} file takes is not known")
    counted = contents(spec) if form.records else {}
    records = (1 + RECORDS_ERROR) * sum(each * counted[name] for name, each in form.records.items())
    records += 1024 if form.records else 0  # an arena is rounded up to whole KiB
    return (1 + form.slack) * form.number * peak_activations(spec, side, form.schedule) + records


def file_size(spec: ResNetSpec, fmt: FormatName) -> float:
    """Bytes of the exported file, within `file_error`.

    Raises:
        ValueError: not known for this format before the file is written.

    """
    file = FOOTPRINTS[fmt].file
    if file is None:
        raise ValueError(f"how large a {fmt} file is can only be seen from the file")
    return sum(file.get(name, 0) * number for name, number in contents(spec).items())
