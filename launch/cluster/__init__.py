"""Starting a run on this machine, a list of nodes, or Slurm."""
