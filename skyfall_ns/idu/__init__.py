"""Iterative dataset update: episodes of rendering, refining and training."""
