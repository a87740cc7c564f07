"""The numbers and the figures of the paper's Figure 3, from the adapters that `figure3.py train` wrote."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from figure3 import EXPERIMENTS, Experiment, Run, planned
from safetensors.numpy import load_file

from analysis.adapters.breakdown import ComponentAdapter, ParameterBreakdown, break_down
from analysis.adapters.observation_two import OTHER_SEED, SAME_SEED, SEED_CONTROL
from analysis.figures import png
from analysis.figures.breakdown import layer_maps, similarity_by_layer, similarity_by_relation, submodule_map

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "figure3.json"
IMAGES = REPOSITORY / "docs" / "images"
DRAWN = {"gsm8k_iid": "a", "dolly_tasks": "b", "dolly_tasks_fast": "b-fast"}
"""Experiments that the paper draws, its letters for them, and (b) at a higher rate."""
DPI = 130
MEASURES = ("subspace_similarity", "cka", "cosine", "update_cosine", "chance")


def analyse(adapters: Path) -> None:
    """Write `results/figure3.json` and the figures, of the experiments that are complete; others keep what is there."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for experiment in EXPERIMENTS:
        runs = planned((experiment,))
        missing = [run.folder for run in runs if not (adapters / run.folder).exists()]
        if missing:
            print(f"{experiment.name}: left out, no {', '.join(missing)}")
            continue
        letter = DRAWN.get(experiment.name)
        result = _break_down(adapters, runs, drawn=letter is not None)
        found[experiment.name] = _numbers(adapters, experiment, runs, result)
        if letter:
            _draw(result, letter)
        print(f"{experiment.name}: {result.observation.verdict}\n  {result.observation.reason}", flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(_markdown(found))


def _break_down(adapters: Path, runs: list[Run], *, drawn: bool) -> ParameterBreakdown:
    states = {run: load_file(adapters / run.folder / "adapter_model.safetensors") for run in runs}
    components = [
        ComponentAdapter(_head(run), run.parts[0].name if run.parts else "none", run.seed, state, bool(run.parts))
        for run, state in states.items()
        if len(run.parts) <= 1
    ]
    hydralora = next((state for run, state in states.items() if len(run.parts) > 1), None)
    return break_down(components, hydralora, methods=("t-SNE", "UMAP") if drawn else ())


def _head(run: Run) -> str:
    name = run.parts[0].name.replace("_", " ") if run.parts else "untrained"
    return f"{name}, seed {run.seed}" if run.seed or not run.parts else name


def _numbers(adapters: Path, experiment: Experiment, runs: list[Run], result: ParameterBreakdown) -> dict[str, Any]:
    records = {run: json.loads((adapters / run.folder / "run.json").read_text()) for run in runs if run.parts}
    first = next(iter(records.values()))
    relations = result.pairs.group_by("relation", "matrix", maintain_order=True).agg(
        pl.col(*MEASURES).fill_nan(None).mean()
    )
    moved = result.submodules.filter(pl.col("trained") & (pl.col("matrix") == "A"))["from_start"].drop_nulls()
    return {
        "target_modules": experiment.target_modules,
        "learning_rate": experiment.learning_rate,
        "hardware": f"{first['gpu']}, torch {first['torch']}",
        "data": first["data"],
        "training": {
            run.folder.split("/")[1]: {
                "steps": record["steps"],
                "tokens": record["tokens"],
                "loss_first_and_last_steps": [_mean(record["losses"][:5]), _mean(record["losses"][-20:])],
                "held_out_loss": {kind: round(loss, 4) for kind, loss in record["held_out_loss"].items()},
                "seconds": record["seconds"],
            }
            for run, record in records.items()
        },
        "a_moved": _mean(moved.to_list()),
        "observation": asdict(result.observation),
        "relations": _rounded(relations),
        "separability": _rounded(result.separability),
        "identification": _rounded(result.identification),
        "subspace_similarity_by_layer": _by_layer(result.pairs),
    }


def _by_layer(pairs: pl.DataFrame) -> dict[str, list[float]]:
    """Relation, matrix and module -> mean subspace similarity of each layer."""
    chosen = pairs.filter(pl.col("relation").is_in([SAME_SEED, OTHER_SEED, SEED_CONTROL]))
    keys = ("relation", "matrix", "module")
    means = chosen.group_by(*keys, "layer").agg(pl.col("subspace_similarity").mean()).sort(*keys, "layer")
    lists = means.group_by(keys, maintain_order=True).agg(pl.col("subspace_similarity").round(4))
    return {" | ".join(names): values for *names, values in lists.iter_rows()}


def _rounded(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.with_columns(pl.selectors.float().round(4)).to_dicts()


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def _draw(result: ParameterBreakdown, letter: str) -> None:
    pictures = [submodule_map(result.embedding, method) for method in ("t-SNE", "UMAP")]
    pictures += [layer_maps(result.embedding, "t-SNE", matrix) for matrix in ("A", "B")]  # the paper's Figures 6 and 7
    pictures += [similarity_by_relation(result.pairs), similarity_by_layer(result.pairs)]
    for picture in pictures:
        name = picture.name.removeprefix("submodules_").replace("_", "-")
        (IMAGES / f"figure3{letter}-{name}.png").write_bytes(png(picture.figure, DPI))


def _markdown(found: dict[str, Any]) -> str:
    """The tables of docs/results/figure3.md."""
    lines = [
        "",
        "| experiment | relation | A | A chance | B | update of A | update of B |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, numbers in found.items():
        by_relation: dict[str, dict[str, Any]] = {}
        for row in numbers["relations"]:
            by_relation.setdefault(row["relation"], {})[row["matrix"]] = row
        for relation, rows in by_relation.items():
            a, b = rows.get("A", {}), rows.get("B", {})
            cells = (
                a.get("subspace_similarity"), a.get("chance"), b.get("subspace_similarity"), a.get("update_cosine"),
                b.get("update_cosine"),
            )  # fmt: skip
            lines.append(
                f"| {name} | {relation} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |"
            )
    lines += ["", "| experiment | matrix | recognised | chance | p | silhouette | p | neighbours | chance | p |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for name, numbers in found.items():
        for one, other in zip(numbers["identification"], numbers["separability"], strict=True):
            cells = (
                one["accuracy"], one["chance"], one["p"], other["silhouette"], other["silhouette_p"],
                other["knn_accuracy"], other["chance"], other["knn_p"],
            )  # fmt: skip
            lines.append(f"| {name} | {one['matrix']} | " + " | ".join(f"{cell:.4g}" for cell in cells) + " |")
    lines += ["", "| experiment | head | steps | tokens | training loss, first and last | held-out loss |"]
    lines += ["|---|---|--:|--:|---|---|"]
    for name, numbers in found.items():
        for head, run in numbers["training"].items():
            first, last = run["loss_first_and_last_steps"]
            losses = ", ".join(f"{kind} {loss:.3f}" for kind, loss in run["held_out_loss"].items())
            lines.append(
                f"| {name} | {head} | {run['steps']} | {run['tokens']:,} | {first:.2f}, {last:.2f} | {losses} |"
            )
    return "\n".join(lines)
