"""The command `hydralora`. Its modules are thin: the work is done in the folders that own it.

Heavy libraries are imported when a command runs, so that `hydralora --help` is quick.
"""
