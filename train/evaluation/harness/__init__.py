"""Benchmark tasks of lm-evaluation-harness, scored by our model."""
