"""The stages of the main path, one module each."""
