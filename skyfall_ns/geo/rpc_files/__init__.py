"""Files that carry an RPC: finding them beside an image, and reading every form that vendors deliver."""
