"""What a file would take on a device that is not here, and how far that is known."""
