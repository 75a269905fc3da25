"""Configuration: how the words of a command line become checked settings."""
