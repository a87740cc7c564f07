"""Artifacts: finished folders named by what made them, and how they pass between assets."""
