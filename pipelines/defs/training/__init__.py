"""Assets from documents to trained adapters."""
