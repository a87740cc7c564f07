"""The paper's tables and figures from the runs of `paper_study.py`, with the code of the job `study`.

    python benchmarks/studies/paper_summary.py STORE STATE RESULTS.json

Writes rates, runs, tables and sizes, and docs/images/figure2.png and figure5.png; prints the tables. What is not tuned
yet is left out: rows and domains of a table, and figures as a whole. Table 4 and LoraHub need the job itself.
"""

import argparse
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from experts_mix import Mix
from paper_claims import compare_claims
from paper_data import configuration, corpus_of, domain_documents
from paper_study import BASE, Cell, Plan
from run_records import read_records
from study_runs import unpack

from analysis.methods.rates import best_rate, is_bracketed
from hydralora.training.outputs.record import write_json
from pipelines.store.artifacts import Artifact, Draft, build_artifact
from pipelines.study.experiments import EXPERIMENTS, TRAINED_AS
from pipelines.study.paper import REFERENCES, WRITERS, PaperInputs
from pipelines.study.running.run_documents import HELD_OUT, read_run_documents
from pipelines.study.sizes import method_sizes
from pipelines.study.tuning import rates_table
from pipelines.training.recipe import BaseModel, Recipe

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
RESAMPLES = 2_000
TABLES = [name for name in WRITERS if name != "table_4"]
OF_RUN = ("method", "num_experts", "rate", "seed", "trainable", "steps", "tokens", "training_loss", "loss", "seconds")

Record = Mapping[str, Any]


def chosen_runs(plan: Plan, records: Mapping[str, Record]) -> tuple[dict[Cell, dict[float, float]], list[Record]]:
    """Cell -> rate -> validation loss, and the records at the best rates of the tuned cells, the base among them."""
    tried = {cell: plan.tried(cell, records) for cell in plan.cells if cell.method != BASE}
    rates = {cell: best_rate(losses) for cell, losses in tried.items() if losses and is_bracketed(losses)}
    names = {(cell.method, cell.mix, cell.num_experts): rate for cell, rate in rates.items()}
    chosen = [
        record
        for record in records.values()
        if record["method"] == BASE
        or names.get((record["method"], record["mix"], record["num_experts"])) == record["rate"]
    ]
    return {cell: losses for cell, losses in tried.items() if losses}, chosen


def loss_rows(records: Iterable[Record], state: Path, documents: Mapping[str, Artifact], seeds: int) -> pl.DataFrame:
    """Losses of every held-out document in every run. The base model has no seed, so it is there for each."""
    ids, tables = {}, []
    for domain, artifact in documents.items():
        part, mix = read_run_documents(artifact, HELD_OUT), Mix.load(state / "mixes" / f"{domain}.npz")
        rows = mix.indices(HELD_OUT)
        sources = [mix.source_names[source] for source in mix.sources[rows]]
        tokens = (mix.lengths - mix.answer_starts)[rows]
        ids[domain] = pl.DataFrame({"document_id": part.column("document_id"), "source": sources, "n_tokens": tokens})
    for record in records:
        own = {"method": record["method"], "domain": record["mix"], "num_experts": record["num_experts"]}
        losses = pl.Series("loss", unpack(record["document_losses"]).astype(float))
        for seed in range(seeds) if record["method"] == BASE else [record["seed"]]:
            columns = {name: pl.lit(value) for name, value in (own | {"seed": seed}).items()}
            tables.append(ids[record["mix"]].with_columns(losses, **columns))
    return pl.concat(tables)


def sizes(cells: Iterable[Cell]) -> pl.DataFrame:
    """Parameters of each method, for each N."""
    recipe, base = Recipe(**configuration()["resources"]["recipe"]["config"]), BaseModel()
    methods: dict[int, list[str]] = {}
    for cell in cells:
        methods.setdefault(cell.num_experts, []).append(cell.method)
    tables = []
    for n, names in sorted(methods.items()):
        settings = replace(recipe.method_config(n), total_steps=recipe.max_steps)
        tables.append(method_sizes(base, list(dict.fromkeys(names)), settings).with_columns(num_experts=n))
    return pl.concat(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("store", "state", "output"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    store, state = arguments.store, arguments.state
    plan, records = Plan(state / "plan.json"), read_records(state / "runs.jsonl")
    config = configuration()["ops"]["study_runs"]["config"]
    corpus = corpus_of(store)
    tried, chosen = chosen_runs(plan, records)
    # `Cell.domain` of the pipelines is the mix here.
    rates = rates_table({_planned(cell): losses for cell, losses in tried.items()})
    losses = loss_rows(chosen, state, domain_documents(store, corpus), len(config["seeds"]))

    def runs(draft: Draft) -> None:
        draft.write_table("losses", losses)
        draft.write_table("sizes", sizes(tried))

    settings = {
        "domains": config["domains"],
        "experiments": list(EXPERIMENTS),
        "runs": sorted(r["key"] for r in chosen),
    }
    made = build_artifact(store, "study_runs", build=runs, code_version="imported", config=settings, inputs={})
    results: dict[str, Any] = {
        "command": "python benchmarks/studies/paper_data.py, paper_study.py, paper_summary.py (see there)",
        "configuration": configuration(),
        "hardware": sorted({f"{record['gpu']}, torch {record['torch']}" for record in records.values()}),
        "documents": {path.stem: _parts(Mix.load(path)) for path in sorted((state / "mixes").glob("*.npz"))},
        "intervals": f"95%, {RESAMPLES} resamples of seeds, tasks and documents",
        "rates": rates.to_dicts(),
        "runs": [{"domain": r["mix"], **{n: r[n] for n in OF_RUN if n in r}} for r in records.values()],
        "sizes": made.read("sizes").to_dicts(),
    }
    inputs = PaperInputs(made, _no_benchmarks(store), corpus, RESAMPLES)
    results["claims"] = compare_claims(inputs.losses(), RESAMPLES).to_dicts()
    there = {(record["method"], record["mix"], record["num_experts"]) for record in chosen}
    for name in TABLES:
        if not _is_ready(name, there):
            print(f"\n## {name}\n\nnot yet")
            continue
        of_table = build_artifact(
            store,
            f"paper_{name}",
            build=lambda draft, name=name: WRITERS[name][1](draft, inputs, name),
            code_version="imported",
            config={"resamples": RESAMPLES},
            inputs={"study_runs": made},
        )
        results[name] = of_table.read("table").to_dicts()
        print(f"\n## {name}\n\n{of_table.path('table.md').read_text()}")
        if name.startswith("figure"):
            shutil.copyfile(of_table.path("figure.png"), IMAGES / f"{name.replace('_', '')}.png")
    write_json(arguments.output, results)


def _is_ready(name: str, there: set[tuple[str, str, int]]) -> bool:
    """Whether a table has its reference and one more method on some domain; a figure needs all."""
    methods, domains, counts = EXPERIMENTS[name].methods, EXPERIMENTS[name].domains, EXPERIMENTS[name].num_experts
    if name not in REFERENCES:
        return all((method, domain, n) in there for method in methods for domain in domains for n in counts)
    reference, trained = REFERENCES[name], {TRAINED_AS.get(method, method) for method in methods}
    reference = TRAINED_AS.get(reference, reference)
    of_domain = [{method for method in trained if (method, domain, counts[0]) in there} for domain in domains]
    return any(reference in found and len(found) > 1 for found in of_domain)


def _planned(cell: Cell) -> Any:
    from pipelines.study.experiments import Cell as Planned

    return Planned(cell.method, cell.mix, cell.num_experts)


def _parts(mix: Mix) -> dict[str, int]:
    return {str(part): int((mix.parts == part).sum()) for part in dict.fromkeys(mix.parts)}


def _no_benchmarks(store: Path) -> Artifact:
    from pipelines.study.benchmarks import SCHEMA

    return build_artifact(
        store,
        "study_benchmarks",
        build=lambda draft: draft.write_table("scores", pl.DataFrame(schema=SCHEMA)),
        code_version="imported",
        config={},
        inputs={},
    )


if __name__ == "__main__":
    main()
