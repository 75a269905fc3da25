"""ORDER read: which samples belong to which step, rank and stage."""
