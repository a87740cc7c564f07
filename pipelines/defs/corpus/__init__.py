"""Assets from sources to vectors."""
