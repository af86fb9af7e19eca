"""`python -m benchmarks gpu` measures a GPU, `python -m benchmarks DATA` the trainer on any device."""

import sys
from importlib import import_module


def main() -> None:
    # Each parses its own arguments; only one is imported, because the one for GPUs must start at once.
    name = "gpu" if sys.argv[1:2] == ["gpu"] else "trainer"
    import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
