"""Textured meshes of a run's heights."""
