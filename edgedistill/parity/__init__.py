"""Whether two files compute the same thing, and where they depart first."""
