"""Probe: which share of each bucket does a model prefer at each moment of training? Branches of one shuffled run."""
