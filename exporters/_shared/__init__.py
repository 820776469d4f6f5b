"""What several exporters have in common."""
