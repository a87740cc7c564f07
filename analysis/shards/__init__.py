"""The corpus stage in shards, for corpora larger than the memory of one machine. Imports all of the corpus's packages.

Every function of a stage takes references to files and returns an `Output`; `analysis.shards.corpus` strings them
together. Documents are numbered across shards in the order read.
"""
