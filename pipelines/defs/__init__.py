"""The assets; imported by `pipelines.definitions` alone."""
