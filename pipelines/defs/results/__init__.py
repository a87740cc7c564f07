"""Assets that evaluate, export and report the trained adapters."""
