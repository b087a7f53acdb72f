"""The splat model and its parts."""
