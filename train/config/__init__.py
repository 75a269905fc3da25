"""Configuration: from command line and YAML to validated settings."""
