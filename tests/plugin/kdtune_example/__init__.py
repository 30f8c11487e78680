"""A package that adds a method to kdtune without touching it."""
