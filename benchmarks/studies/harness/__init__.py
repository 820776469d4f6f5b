"""Our harness beside bare loops."""
