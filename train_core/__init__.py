"""Trains one network. Knows nothing of studies, samplers or the command line."""
