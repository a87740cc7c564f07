"""Methods side by side, and the paper's printed values. Imports nothing of the project."""
