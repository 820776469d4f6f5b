"""Tasks: what a model does, and how well."""
