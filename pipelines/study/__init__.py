"""Many runs side by side, and the paper's tables. Imports `training`."""
