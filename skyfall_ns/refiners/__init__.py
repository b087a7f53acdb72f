"""Refiners: models and filters that improve rendered views, which are then used for training."""
