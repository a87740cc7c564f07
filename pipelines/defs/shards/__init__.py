"""The asset of a corpus in shards."""
