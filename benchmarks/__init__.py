"""Shelf: what can be measured (edgedistill/plugins.py documents the verbs)."""
