"""The numbers and the figures of the paper's Figure 3, from the adapters that `figure3.py train` wrote."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from figure3 import EXPERIMENTS, Experiment, Run, planned
from paper_page import filled, table
from safetensors.numpy import load_file

from analysis.adapters.breakdown import ComponentAdapter, ParameterBreakdown, break_down
from analysis.adapters.observation_two import OTHER_SEED, RELATIONS, SAME_SEED, SEED_CONTROL
from analysis.figures import png
from analysis.figures.breakdown import layer_maps, similarity_by_layer, similarity_by_relation, submodule_map

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "figure3.json"
PAGE = REPOSITORY / "docs" / "results" / "figure3.md"
IMAGES = REPOSITORY / "docs" / "images"
DRAWN = {"gsm8k_iid": "a", "dolly_tasks": "b", "dolly_tasks_fast": "b-fast"}
"""Experiments that the paper draws, its letters for them, and (b) at a higher rate."""
DPI = 130
MEASURES = ("subspace_similarity", "cka", "cosine", "update_cosine", "chance")


def analyse(adapters: Path) -> None:
    """Write `results/figure3.json`, its page's tables, and the figures of the experiments that are complete.

    Other experiments keep what is there.
    """
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
    PAGE.write_text(filled(PAGE.read_text(), found, TABLES))


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


def _verdicts(found: dict[str, Any]) -> str:
    rows = []
    for name, numbers in found.items():
        of, seen = numbers["observation"]["numbers"], {row["matrix"]: row for row in numbers["identification"]}
        rows.append(
            [
                f"`{name}`",
                f"{numbers['learning_rate']:g}",
                f"{1 - of['a_to_start']:.3f}",
                f"A {of['a_same_seed']:.3f}, B {of['b_same_seed']:.3f}",
                f"A {of['a_other_seed']:.3f}, B {of['b_other_seed']:.3f}; chance {of['a_chance']:.3f}",
                f"{of['b_same_data_other_seed']:.3f} against {of['b_other_seed']:.3f}, p = {of['b_data_effect_p']:.2g}",
                ", ".join(f"{matrix} {100 * row['accuracy']:.0f}%" for matrix, row in seen.items()),
                numbers["observation"]["verdict"],
            ]
        )
    head = [
        *(
            "experiment",
            "rate",
            "A moved (1 - its similarity to the start)",
            "one seed",
            "two seeds",
            "two seeds, B of the same data",
        ),
        *("data recognised", "Observation II"),
    ]
    return table(head, rows)


def _relations(found: dict[str, Any]) -> str:
    """Mean subspace similarity of A and of B."""
    cells = {
        (name, row["relation"], row["matrix"]): row["subspace_similarity"]
        for name, numbers in found.items()
        for row in numbers["relations"]
    }
    columns = [(name, matrix) for name in found for matrix in ("A", "B")]
    rows = []
    for relation in RELATIONS:
        of = [cells.get((name, relation, matrix)) for name, matrix in columns]
        rows.append([relation, *("" if value is None else f"{value:.3f}" for value in of)])
    return table(["relation", *(f"`{name}` {matrix}" for name, matrix in columns)], rows)


def _updates(found: dict[str, Any]) -> str:
    """Cosine of what training added, of heads of different data."""
    cells = {
        (name, row["relation"], row["matrix"]): row["update_cosine"]
        for name, numbers in found.items()
        for row in numbers["relations"]
    }
    rows = [
        [
            f"`{name}`",
            *(f"{cells[name, relation, matrix]:.2f}" for relation in (SAME_SEED, OTHER_SEED) for matrix in "AB"),
        ]
        for name in found
    ]
    return table(["experiment", "A, one seed", "B, one seed", "A, two seeds", "B, two seeds"], rows)


def _losses(found: dict[str, Any]) -> str:
    """Held-out losses of the heads of each experiment, in nats per token."""
    rows = []
    for name, numbers in found.items():
        for head, run in numbers["training"].items():
            losses = ", ".join(f"{kind.replace('_', ' ')} {loss:.3f}" for kind, loss in run["held_out_loss"].items())
            rows.append([f"`{name}`", head, str(run["steps"]), f"{run['tokens']:,}", losses])
    return table(["experiment", "head", "steps", "tokens", "held-out loss"], rows)


TABLES = {"verdicts": _verdicts, "relations": _relations, "updates": _updates, "losses": _losses}
