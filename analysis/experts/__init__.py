"""What experts stand for, and what reads the group off a prompt. Imports `clusters`."""
