"""Speed and memory beside named peers, each benchmark in one run: `python -m benchmarks.reading`."""
