"""Files: what one is, running it in its runtimes, whether these agree, what it tells of itself."""
