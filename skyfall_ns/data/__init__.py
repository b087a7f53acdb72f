"""Vendor images to scene folders, and the scene folder itself."""
