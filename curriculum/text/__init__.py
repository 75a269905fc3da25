"""Documents read from text files, Parquet and Hugging Face datasets."""
