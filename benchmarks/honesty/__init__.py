"""Is the harness honest? `python -m benchmarks.honesty harness|alarms`; not shipped with the package."""
