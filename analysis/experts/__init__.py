"""Which group of documents each expert serves, and how a prompt's group is predicted. Imports `clusters`."""
