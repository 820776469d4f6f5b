"""Teachers: whatever they are, they give Signals."""
