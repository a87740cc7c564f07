"""Strings, and what is counted in them: tokens, terms, shingles, samples. Imports nothing of the project."""
