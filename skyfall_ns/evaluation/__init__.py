"""Scores of heights and images."""
