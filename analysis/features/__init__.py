"""Documents as vectors. Imports `text`."""
