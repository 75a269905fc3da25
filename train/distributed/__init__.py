"""Ranks: how they meet, agree, watch each other and leave."""
