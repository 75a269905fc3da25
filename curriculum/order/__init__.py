"""Reading an ORDER: which samples belong to which step, rank and stage."""
