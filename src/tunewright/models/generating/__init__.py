"""How models write texts."""
