"""How large exported files are, compared with the closed form of `train_core.footprint`.

    python -m benchmarks.file_sizes onnx-int8 --networks 40

exports random networks of all kinds, with random weights, and prints for each the bytes of its file and the relative
error of the closed form; then the coefficients that fit these files best, which `FOOTPRINTS` holds.
"""

import argparse
import random
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from space import RandomTrial, Space, Task, network, suggest
from train_core.blocks import BLOCKS
from train_core.deploy import deployed
from train_core.description import Description
from train_core.examples import FormatName
from train_core.footprint import FOOTPRINTS, contents, file_size
from train_core.formats import FORMATS
from train_core.models import BatchNorm, ResNet
from train_core.specs import ResNetSpec

WIDE = Space(
    block=tuple(BLOCKS),
    stages=(2, 3, 4),
    shortcut=("conv", "max-pool", "pad", "none"),
    shortcut_input=("block", "activated"),
    shortcut_norm=("after", "before", "none"),
    stem_end=("norm-relu", "norm", "none"),
    final_norm=(False, True),
    se_reduction=(0, 4, 16),
    norm=("batch", "none"),
    widening=("stages", "blocks"),
    expansion=(2, 4),
    k1=(1, 3, 5),
    k2=(1, 3),
)


def drawn(seed: int) -> tuple[ResNetSpec, int]:
    """A network of 10,000 to 1.5 million parameters, and the side of its images in pixels."""
    generator = random.Random(seed)
    side = generator.choice((16, 28, 32))
    task = Task(generator.choice((1, 3)), generator.choice((2, 10, 100)), (side, side))
    budget = round(10 ** generator.uniform(4, 6.2))
    return network(suggest(RandomTrial(generator, WIDE), WIDE), WIDE, budget, task), side


def exported(spec: ResNetSpec, side: int, fmt: FormatName, seed: int = 0) -> bytes:
    """The file of the network with random weights and statistics: as after training, no two tensors are equal."""
    torch.manual_seed(seed)
    model, channels = ResNet(spec).eval(), spec.in_channels
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    about = Description(
        origin="a measurement",
        network=spec,
        classes=tuple(f"class {number}" for number in range(spec.num_classes)),
        height=side,
        width=side,
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
    )
    record = FORMATS[fmt]
    written = record.write(deployed(model, about), about)
    if record.int8 is None:
        return written
    images = np.random.default_rng(seed).integers(0, 256, (20, side, side, channels), dtype=np.uint8)
    return record.int8.calibrate(written, images)


def fit(specs: list[ResNetSpec], sizes: list[int]) -> dict[str, float]:
    """Bytes for each of `CONTENTS`, by least squares of relative errors; a byte of the description counts as one."""
    counted = [contents(spec) for spec in specs]
    names = [name for name in counted[0] if name != "description" and any(each[name] for each in counted)]
    numbers: NDArray[np.float64] = np.array([[each[name] for name in names] for each in counted], float)
    took = np.array(sizes, float)
    rest = took - [each["description"] for each in counted]
    found, *_ = np.linalg.lstsq(numbers / took[:, None], rest / took, rcond=None)
    return dict(zip(names, found.round(1).tolist(), strict=True))


def main() -> None:
    """Parse the command line, export, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=get_args(FormatName))
    parser.add_argument("--networks", type=int, default=40)
    options = parser.parse_args()
    fmt = cast(FormatName, options.format)
    specs, sizes, errors = [], [], []
    for seed in range(options.networks):
        spec, side = drawn(seed)
        sizes.append(len(exported(spec, side, fmt, seed)))
        specs.append(spec)
        if FOOTPRINTS[fmt].file is not None:
            errors.append(file_size(spec, fmt) / sizes[-1] - 1)
        print(f"{sizes[-1]:>9,} bytes  {f'{100 * errors[-1]:+.2f} %' if errors else ''}  {spec}", flush=True)
    if errors:
        print(f"closed form: off by at most {100 * max(map(abs, errors)):.2f} % (n = {len(errors)})")
    print(f"best fit to these: {fit(specs, sizes)}")


if __name__ == "__main__":
    main()
