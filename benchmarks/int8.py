"""What the networks of runs lose in int8: each full run is quantised as `search export` does it.

    python -m benchmarks.int8 runs/digits-20k runs/photos --format tflite-int8

prints a line for each full run: the validation accuracy in float32, the points that int8 loses, sizes and latencies;
and for a run that has read the test images, both files' accuracies on those.
"""

import argparse
from pathlib import Path

from search.export import trained
from search.promotions import finished
from search.quantisation import CALIBRATION, on_test, quantise
from search.run_folder import RunFolder
from search.session import load, test_of
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
        spec = load_study(str(folder.study_file), {})
        data = load(spec)
        for run in finished(folder):
            promotion = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit)
            about = Description.of(run.network, data, "a benchmark")
            written = form.write(deployed(trained(run, promotion).final_model, about), about)
            made, found = quantise(written, arguments.format, data, CALIBRATION)
            test, line = None if run.test_accuracy is None else test_of(spec, data)(), ""
            if test is not None:
                both = on_test(written, made, arguments.format, test)
                line = f"; test {100 * both.floats:.2f} to {100 * both.int8:.2f} % of {both.images}"
            print(
                f"{folder.name}  {run.network}  {run.parameters:,} parameters, seed {run.seed}: "
                f"{100 * found.floats.accuracy:.2f} % of {found.images}, loses {100 * found.lost:+.2f} points, "
                f"{found.floats.size:,} to {found.int8.size:,} bytes, "
                f"{1000 * found.floats.latency:.3f} to {1000 * found.int8.latency:.3f} ms{line}",
                flush=True,
            )


if __name__ == "__main__":
    main()
