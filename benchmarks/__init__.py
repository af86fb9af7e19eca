"""Measures the trainer: `python -m benchmarks --help`."""
