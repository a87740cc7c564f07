"""Engines that run the tasks of a sharded corpus: this machine, or a Ray cluster. Imports nothing of `pipelines`."""
