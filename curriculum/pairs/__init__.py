"""PAIRS: a prompt, its chosen and its rejected answers; prepared, scored and selected."""
