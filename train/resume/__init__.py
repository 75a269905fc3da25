"""Resuming: whether a run may resume in a folder, from which checkpoint, and with which changes."""
