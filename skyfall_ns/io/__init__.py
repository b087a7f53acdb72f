"""Reading and writing files: atomic writes, directories, JSON, PNG and PLY."""
