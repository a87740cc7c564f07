"""From records to documents: cleaning, duplicates, leaks. Imports `text` and `sources`."""
