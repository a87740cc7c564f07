"""Services of the operating system for artifacts: locks, free space, lists of files, pictures, processes that end.

Imports nothing of the project.
"""
