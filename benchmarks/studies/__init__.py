"""Studies: several objectives, several seeds, one table."""
