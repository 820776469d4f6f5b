"""The ARM emulator: installed without root, one core at a time."""
