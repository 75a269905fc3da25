"""Command line, clusters, executors and the demo: how and where a run is started, and whether it fits."""
