"""Assets of documents that arrive after N was chosen."""
