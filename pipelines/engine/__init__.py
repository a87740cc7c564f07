"""Which engine runs the tasks of a corpus in shards: this machine, or a Ray cluster. Imports nothing of `pipelines`."""
