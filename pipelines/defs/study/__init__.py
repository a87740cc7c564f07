"""The assets of the jobs `compare` and `study`."""
