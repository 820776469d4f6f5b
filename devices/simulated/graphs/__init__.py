"""Graphs read from files: layers, sizes and what lives at once."""
