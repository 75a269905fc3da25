"""Ranks: how they start, find each other, notice each other's failures and exit."""
