"""`pdpc evaluate`, in this process or as ranks."""
