"""Per-token losses from hidden states, and the interface of models that score."""
