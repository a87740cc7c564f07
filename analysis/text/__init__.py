"""Strings, and what is counted in them: tokens, terms, shingles, samples. Imports nothing of the project."""

from analysis.text.kernel_cache import drop_stale_kernels

drop_stale_kernels()
