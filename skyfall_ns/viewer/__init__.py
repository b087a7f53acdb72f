"""Viewer panels and cameras."""
