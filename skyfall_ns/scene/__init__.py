"""The scene directory, its surface layers, and the scene in model units."""
