"""Profiles made anew from the evidence, and held against what no fit saw."""
