"""Low-rank matrix problems."""
