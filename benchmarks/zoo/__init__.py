"""Students of every kind through every exporter: `python -m benchmarks.zoo` writes docs/zoo.md."""
