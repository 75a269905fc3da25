"""Benchmark tasks of lm-evaluation-harness, evaluated on our decoder."""
