"""What a user asks for, in YAML: one file a section."""
