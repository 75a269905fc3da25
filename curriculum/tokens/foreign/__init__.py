"""Token files of other programs: adopted without copying, or exported."""
