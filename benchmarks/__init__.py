"""Speed and memory compared with named peers, measured in one run: `python -m benchmarks.reading`."""
