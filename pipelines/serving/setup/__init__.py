"""Inputs of a server: its settings, the folder of exports, and the command lines of engines.

Imports `serving.errors`.
"""
