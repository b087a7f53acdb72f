"""The `skyfall-*` commands, one per file."""
