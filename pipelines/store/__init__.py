"""Artifacts: finished folders named by a fingerprint of what made them, and how assets exchange them."""
