"""Campaigns that hurt a run on purpose, counted: `python -m tests.torture` (docs/torture.md)."""
