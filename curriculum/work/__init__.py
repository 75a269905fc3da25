"""Work in chunks that stays done: jobs, progress, threads."""
