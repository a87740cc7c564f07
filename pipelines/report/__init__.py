"""What the report of a run needs from its artifacts, and the commands that the report prints.

Imports `store` and `training`.
"""
