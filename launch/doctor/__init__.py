"""Checks before a run is started."""
