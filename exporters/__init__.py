"""Shelf: one runtime format a file, the same verbs in each (edgedistill/plugins.py documents them)."""
