"""Where tasks run: one after another, in processes, or on another engine. Files of shards, each with a marker.

Imports nothing of the project. An engine of several machines (Ray) lives in `pipelines` and has the same interface.
"""
