"""Immersive, georeferenced 3D cities from satellite images: a Nerfstudio plugin."""

__version__ = "0.1.0"
