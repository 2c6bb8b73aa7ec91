"""Translation quality in figures, each of which says which one it is."""
