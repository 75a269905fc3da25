"""Token losses from hidden states, and what scoring asks of a model."""
