"""Latency and memory of artifacts on devices: measured, emulated or predicted."""
