"""The loop that trains: epochs, checkpoints, schedules, several processes."""
