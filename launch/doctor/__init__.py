"""Checks to make before starting a run."""
