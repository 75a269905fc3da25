"""A run in W&B: replayed from its metrics, shown as a workspace, or read as a baseline."""
