"""Side by side with other tools."""
