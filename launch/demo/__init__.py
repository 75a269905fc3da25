"""The full pipeline on the text of this machine."""
