"""How work in chunks is shared out: processes of this machine, ranks of a launcher, actors of a Ray cluster."""
