"""Entry point of the code location: `dagster dev`, `dg launch` and `dagster job execute -m pipelines.definitions`."""

import dagster as dg

defs = dg.Definitions()
