"""SCORES: one row per sample, one loss column per reference model."""
