"""What `pdpc evaluate` evaluates, in this process or as ranks."""
