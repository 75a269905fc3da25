"""Artifact folders on disk, complete or absent, and the files in them."""
