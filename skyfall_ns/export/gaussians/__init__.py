"""Gaussians of a run in meters, in an appearance, as files for viewers and maps."""
