"""Cheaper scores and their accuracy: features that need no model, predictions from them, and a trial of both."""
