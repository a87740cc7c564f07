"""Everything that is wrong with a run configuration, said before the first asset computes."""

from typing import Any

import dagster as dg


class RunChecks(dg.ConfigurableResource):
    """Looks at the whole configuration of a run, once."""

    enabled: bool = True
    """Off: each asset finds out by itself, after those before it have computed."""

    def check(self, run: Any) -> None:
        """Raises `dagster.Failure` in one sentence for the first thing that is wrong."""
