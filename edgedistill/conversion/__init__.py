"""A model to files: read, written, quantised, proved, measured, recommended."""
