"""Timings that others published, and networks as they timed them."""
