"""What the networks of runs lose in int8: each full run is quantised as `search export` does it.

    python -m benchmarks.int8 runs/digits-20k runs/photos --format tflite-int8

prints a line for each full run: the validation accuracy in float32, the points that int8 loses, sizes and latencies.
"""

import argparse
from pathlib import Path

from search.export import trained
from search.promotions import finished
from search.quantisation import CALIBRATION, quantise
from search.run_folder import RunFolder
from search.session import load
from search.spec import load_study
from train_core.deploy import deployed
from train_core.description import Description
from train_core.formats import FORMATS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run that has full runs")
    parser.add_argument("--format", default="onnx-int8", choices=[name for name, each in FORMATS.items() if each.int8])
    arguments = parser.parse_args()
    form = FORMATS[arguments.format]
    for root in arguments.runs:
        folder = RunFolder(root)
        data = load(load_study(str(folder.study_file), {}))
        for run in finished(folder):
            promotion = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit)
            about = Description.of(run.network, data, "a benchmark")
            written = form.write(deployed(trained(run, promotion).final_model, about), about)
            _, found = quantise(written, arguments.format, data, CALIBRATION)
            print(
                f"{folder.name}  {run.network}  {run.parameters:,} parameters, seed {run.seed}: "
                f"{100 * found.floats.accuracy:.2f} % of {found.images}, loses {100 * found.lost:+.2f} points, "
                f"{found.floats.size:,} to {found.int8.size:,} bytes, "
                f"{1000 * found.floats.latency:.3f} to {1000 * found.int8.latency:.3f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
