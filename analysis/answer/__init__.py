"""From files to an answer: how many experts a corpus deserves, why, and how sure that is. Imports no torch.

This folder may import every other one of `analysis`, and none imports it.
"""
