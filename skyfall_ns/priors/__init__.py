"""Depth priors: models that predict depth images for depth supervision, loaded only while they are needed."""
