"""Memory a run needs and memory there is."""
