"""A folder for each corpus that has a job of its own: `defs.yaml` says which; `dg scaffold defs` makes one."""
