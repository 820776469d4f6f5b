"""Pure: intervals, percentiles, and whether one is slower than another."""
