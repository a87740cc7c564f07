"""`python -m pipelines.summary CONFIG.yaml`: prints the results of the last run, and the path of its report."""

import argparse
import shlex
from pathlib import Path

import polars as pl

from pipelines.store.artifacts import ArtifactError
from pipelines.store.io_manager import ArtifactStore, store_of


def main() -> None:
    """Print the clusters, N with its reason, the held-out losses, and the path of the report."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.summary", description=__doc__)
    parser.add_argument("config", type=Path, help="the run configuration that was executed")
    arguments = parser.parse_args()
    try:
        print(summary(store_of(arguments.config)))
    except (ArtifactError, OSError) as error:
        raise SystemExit(str(error)) from error


def summary(store: ArtifactStore) -> str:
    """The results of the last run, and how to serve them, as text."""
    choice, gates = (
        store.last("num_clusters").json("num_clusters"),
        store.last("expert_assignment").json("expert_assignment"),
    )
    table = store.last("evaluation").read("evaluation").filter(pl.col("group_kind") == "all").sort("loss")
    losses = [
        f"  {row['method']:<20} {row['loss']:.4f}   {row['loss_low']:.4f} to {row['loss_high']:.4f}"
        for row in table.iter_rows(named=True)
    ]
    lines = [
        "",
        choice["reason"],
        f"N = {gates['num_experts']}. {gates['reason']}",
        "",
        "Held-out loss (nats per answer token, 95% interval):",
        *losses,
    ]
    report, exports = store.last("report").path("report.html").resolve(), store.last("domain_exports").folder
    ending = [
        f"Report: {report}",
        f"Exports: {exports}",
        f"Next: hydralora serve {shlex.quote(str(exports))} --print-config vllm    # or llama.cpp: starts a server",
        "",
    ]
    return "\n".join([*lines, "", *ending])


def corpus_summary(store: ArtifactStore) -> str:
    """The results of the last run of the job `corpus`, as text."""
    choice = store.last("num_clusters").json("num_clusters")
    experts = store.last("expert_assignment").json("expert_assignment")
    low, high = choice["interval"]
    lines = [
        "",
        f"N = {experts['num_experts']}. {experts['reason']}",
        f"Clusters: {choice['num_clusters']} (interval {low} to {high}). {choice['reason']}",
        "",
        f"Report: {store.last('corpus_report').path('report.html').resolve()}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
