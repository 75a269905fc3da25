"""Optimizer state and parameters offloaded to NVMe."""
