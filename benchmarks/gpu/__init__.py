"""The GPU check: every path that needs a GPU compared with the reference, then training steps in tokens/s and MFU."""
