"""How `pdpc score` shares its chunks out: processes of this machine, ranks of a launcher, actors of a Ray cluster."""
