"""Studies: arms x seeds x schedules from one file, each an ordinary run, and one page at the end."""
