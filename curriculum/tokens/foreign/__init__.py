"""Token files of other programs: adopted without a copy, or exported."""
