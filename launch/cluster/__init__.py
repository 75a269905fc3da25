"""Hostfiles, Slurm, and the supervisor of a machine's ranks."""
