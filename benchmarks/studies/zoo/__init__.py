"""Many models through every exporter."""
