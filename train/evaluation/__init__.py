"""Held-out loss and benchmarks of a model."""
