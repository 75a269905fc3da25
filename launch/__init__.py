"""How a run is started, where, and whether it fits: command line, clusters, demo."""
