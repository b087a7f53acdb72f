"""Trained Gaussians as georeferenced files."""
