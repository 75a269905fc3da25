"""The memory a run needs and the memory available."""
