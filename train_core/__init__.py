"""Trains one network. Knows nothing of studies, samplers or the command line."""

import os

# Torch's threads sleep while they wait for each other. By default they keep their processors busy instead, and training
# beside other programs is up to ten times slower (docs/benchmarks.md). It is read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
