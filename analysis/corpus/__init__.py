"""From records to documents: cleaning, deduplication, decontamination. Imports `text` and `sources`."""
