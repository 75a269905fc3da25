"""Held-out loss and benchmarks of one model."""
