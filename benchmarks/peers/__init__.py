"""What distilling costs by hand, here and in other libraries. Not shipped; run `python -m benchmarks.peers`."""
