"""The table of published systems: what each report printed, what its network reaches here, and what a search finds.

    python -m benchmarks.published
        every report's best row, at its length, on all images: for a GPU
    python -m benchmarks.published li-huang --epochs 10 --data cifar10-2k.npz --trials 8 --short 3 --max-madds 100M
        smaller, for a CPU: shorter, on fewer images, with cheaper networks

For each report: its best row is reproduced (`search reproduce`); then a search around it, under its limit, and its best
networks trained for as many epochs (`search run`, `search promote`; over six copies of the images, an epoch is six).
Both are tested in the same way: the test split is read once, when a network is finished. Finished work is not repeated.
Prints a line of Markdown for each report.
"""

import argparse
from pathlib import Path

from search import api, full_runs
from search.completion import shipped_studies
from search.formatting import percent
from search.full_runs import PromoteFlags
from search.promotions import winner
from search.published import Reproduction
from search.run_folder import RunRef
from search.session import Placement
from search.spec import load_study, parse_budget

BEST_SEARCHED = {"keller": "D9"}  # its best row starts from ImageNet weights, which no search does
HEAD = """\
| report | row | published | the same here | found here | epochs, published and here | images |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Reproduce, search, promote, and print the table."""
    reports = [name for name in shipped_studies() if load_study(name, {}).published]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="*", metavar="report", help=", ".join(reports))
    parser.add_argument("--row", help="another than the best of the report")
    parser.add_argument("--epochs", type=int, help="in place of the report's")
    parser.add_argument("--data", help="in place of the report's")
    parser.add_argument("--trials", type=int, help="of the search; 0: none")
    parser.add_argument("--short", type=int, help="epochs of its short runs")
    parser.add_argument("--top", type=int, default=3, help="trials to promote")
    parser.add_argument("--max-madds", help="of the search's networks")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    lines = [line(name, options) for name in options.reports or reports]
    print("\n".join([HEAD, *lines]))


def line(name: str, options: argparse.Namespace) -> str:
    """One report's line of the table."""
    published = load_study(name, {}).published
    assert published is not None
    chosen = options.row or BEST_SEARCHED.get(name) or published.best()
    row, data = published.rows[chosen], {"data": options.data} if options.data else {}
    epochs = options.epochs or row.epochs
    (here,) = full_runs.reproduce(name, [chosen], flags=data, runs=options.runs, epochs=epochs)
    passes = epochs * max(1, len(here.recipe.copies))
    found = "" if options.trials == 0 else searched(name, passes, data, options)
    cells = [name, chosen, f"{row.accuracy:.2f} %", accuracy_of(here), found, f"{row.epochs} and {epochs}"]
    return f"| {' | '.join([*cells, f'{here.training_images:,}'])} |"


def accuracy_of(here: Reproduction) -> str:
    """The accuracy on the test split."""
    return percent(here.accuracy) if here.accuracy is not None else here.diverged or "no test split"


def searched(name: str, epochs: int, data: dict[str, str], options: argparse.Namespace) -> str:
    """Search around the report, and train the best for as many epochs: test accuracy and network."""
    madds = {"max_madds": parse_budget(options.max_madds)} if options.max_madds else {}
    short = {key: value for key, value in (("trials", options.trials), ("epochs", options.short)) if value}
    ref = RunRef(f"{name}-found", options.runs)
    api.run(name, {**data, **madds, **short}, ref, Placement())
    best = winner(full_runs.promote(ref, Placement(), PromoteFlags(top=options.top, epochs=epochs)))
    if not best or best[0].test_accuracy is None:
        return "nothing"
    return f"{percent(best[0].test_accuracy)}: {best[0].network}, {best[0].parameters:,} parameters"


if __name__ == "__main__":
    main()
