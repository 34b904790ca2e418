"""Sweeps on disk, tile by tile."""
