"""Two nodes and a login machine on this one: network namespaces with sshd and a real Slurm (`make cluster`)."""
