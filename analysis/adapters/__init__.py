"""Statistics of trained parameters and gates. Imports nothing of the project."""
