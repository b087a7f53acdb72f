"""The scene directory, and the scene in model units."""
