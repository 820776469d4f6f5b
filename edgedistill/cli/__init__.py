"""The command line: thin, one file a command or family of commands."""
