"""What a server starts from: its settings, the folder of exports, and the command lines of engines.

Imports `serving.errors`.
"""
