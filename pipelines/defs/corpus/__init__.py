"""Assets that turn sources into documents and features."""
