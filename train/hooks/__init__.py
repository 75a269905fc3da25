"""What happens beside the loop's five lines, a file each: guards, and what is measured and recorded."""

from train.hooks.hook import Hook

__all__ = ["Hook"]
