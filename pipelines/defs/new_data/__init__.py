"""Assets for documents that arrive after N was chosen."""
