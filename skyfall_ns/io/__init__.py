"""Files: written whole or not at all; images and PLY."""
