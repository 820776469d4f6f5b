"""Quantisation-aware training: the rounding of files, simulated while the student learns."""
