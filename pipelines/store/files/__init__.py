"""What artifacts ask of the operating system: locks, free space, lists of files, pictures, processes that end.

Imports nothing of the project.
"""
