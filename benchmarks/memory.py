"""The memory that a runtime allocates for a network's activations, compared with `train_core.footprint`.

    python -m benchmarks.memory onnx --networks 12

exports random networks, and lets onnxruntime compute a batch of images with each, in a separate process. The growth of
the process from a small batch to a large one, per image, is what the runtime allocates: its working memory and its
weights do not grow with the batch.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from benchmarks.file_sizes import drawn, exported
from train_core.examples import FormatName
from train_core.footprint import FOOTPRINTS, peak_activations

BYTES = 300_000_000  # of activations in the large batch

MEASURE = """
import json, re, sys
from pathlib import Path
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = False  # which would keep powers of two
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shape = json.loads(sys.argv[2])
peaks = []
for number in json.loads(sys.argv[3]):
    session.run(None, {"images": np.zeros((number, *shape), np.float32)})
    peaks.append(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
print(json.dumps(peaks))
"""


def allocated(written: bytes, shape: tuple[int, int, int], batches: tuple[int, int]) -> float:
    """Bytes for each image of a batch, beyond those of a small one."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(written)
        command = [sys.executable, "-c", MEASURE, str(file), json.dumps(shape), json.dumps(batches)]
        small, large = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(large - small) / (batches[1] - batches[0])


def main() -> None:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=("onnx", "onnx-int8"))
    parser.add_argument("--networks", type=int, default=12)
    options = parser.parse_args()
    fmt = cast(FormatName, options.format)
    for seed in range(options.networks):
        spec, side = drawn(seed)
        said = FOOTPRINTS[fmt].number * peak_activations(spec, side)
        large = max(200, BYTES // said)
        found = allocated(exported(spec, side, fmt, seed), (spec.in_channels, side, side), (large // 10, large))
        print(f"{found:>10,.0f} bytes an image, closed form {said:>10,} ({found / said:.2f})  {spec}", flush=True)


if __name__ == "__main__":
    main()
