"""Assets that measure what was trained, export it and report it."""
