"""Assets that tokenise documents and train adapters."""
