"""What artifacts need from the operating system: locks, free space, lists of files, pictures, processes that end.

Imports nothing of the project.
"""
