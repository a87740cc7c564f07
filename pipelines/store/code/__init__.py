"""The code that made an artifact: source files at the start of a process, and the hash of those that an asset reaches.

Imports nothing of the project; `source_files` needs the standard library alone.
"""
