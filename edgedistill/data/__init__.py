"""Data: sources, splits, normalisation."""
