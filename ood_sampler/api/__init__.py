"""The package from Python: its functions take and give objects, and write nothing unless told."""
