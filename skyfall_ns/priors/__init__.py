"""Depth priors: what a depth image should look like, as guests that are loaded, asked, and let go."""
