"""Resumable work in chunks: jobs, progress, threads."""
