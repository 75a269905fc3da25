"""Are the arms comparable? What differs between them, what it may explain, and sentences for the reader."""
