"""Many runs in parallel, and the paper's tables. Imports `training`."""
