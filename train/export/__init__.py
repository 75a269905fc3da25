"""A run's weights as a Hugging Face folder."""
