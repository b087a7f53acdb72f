"""Scene directories as Nerfstudio datasets."""
