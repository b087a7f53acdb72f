"""Scene folders as Nerfstudio datasets."""
