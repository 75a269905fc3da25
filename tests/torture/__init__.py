"""Fault-injection campaigns: `python -m tests.torture` (docs/torture.md)."""
