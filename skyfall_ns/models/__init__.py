"""The Gaussian model and its parts."""
