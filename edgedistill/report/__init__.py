"""The report: JSON first, everything else is drawn from it."""
