"""The full pipeline on text found on this machine."""
