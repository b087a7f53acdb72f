"""Vendor images to a scene directory."""
