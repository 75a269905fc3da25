"""Hooks of the training loop, one per file: guards, and everything that is measured and recorded."""

from train.hooks.hook import Hook

__all__ = ["Hook"]
