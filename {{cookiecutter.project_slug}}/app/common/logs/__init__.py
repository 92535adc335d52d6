"""How log records become lines, and where the lines go."""
