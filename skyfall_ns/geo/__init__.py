"""Exact satellite geometry in float64: frames, RPCs, cameras, adjustment, stereo, rasters."""
