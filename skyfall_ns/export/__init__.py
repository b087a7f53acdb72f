"""From trained splats to files that land on the map."""
