"""Shelf: where an artifact can run (edgedistill/plugins.py documents the verbs)."""
