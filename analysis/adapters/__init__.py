"""What trained parameters and gates look like. Imports nothing of the project."""
