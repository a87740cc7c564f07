"""The paper's tables, with our values beside the printed values."""

from collections.abc import Mapping

import polars as pl

from analysis.methods.comparison import compare_on_both

LOSS_COLUMNS = ("method", "seed", "source", "task", "document_id", "loss", "n_tokens")


def domain_table(
    losses: pl.DataFrame,
    methods: Mapping[str, str],
    num_experts: int,
    reference: str,
    printed: pl.DataFrame,
    sizes: pl.DataFrame,
    *,
    benchmarks: pl.DataFrame | None = None,
    resamples: int = 1_000,
) -> pl.DataFrame:
    """Our loss of each method on each domain, beside the value that the paper prints.

    Args:
        losses: `domain, num_experts` and `task` and the columns that `compare_losses` needs. The method "base" may have
            any N.
        methods: row of the table -> method that was trained for it. Rows without losses are omitted.
        reference: row whose loss is subtracted from the others. Domains without its losses are omitted.
        printed: table from `analysis.methods.paper`: `method`, a column for each domain, and maybe `percent`.
        sizes: `method, num_experts, n_parameters, percent_without_router` on our base model.
        benchmarks: `method, domain, benchmark, value, stderr, chance`.

    Returns:
        `domain`, the columns of `compare_on_both`, `printed, n_parameters, percent, percent_printed`, and `benchmark,
        score, stderr, chance` if there are benchmarks.
    """
    own = losses.filter((pl.col("num_experts") == num_experts) | (pl.col("method") == "base"))
    tables = []
    there = own.filter(pl.col("method") == methods[reference])["domain"].unique()
    for domain in [name for name in printed.columns if name in there]:
        rows = [
            own.filter(pl.col("domain") == domain, pl.col("method") == trained)
            .select(LOSS_COLUMNS)
            .with_columns(method=pl.lit(row))
            for row, trained in methods.items()
        ]
        compared = compare_on_both(pl.concat(rows), reference, resamples=resamples)
        beside = printed.select("method", printed=domain)
        tables.append(compared.join(beside, on="method", how="left").select(pl.lit(domain).alias("domain"), pl.all()))
    named = pl.DataFrame({"row": list(methods), "method": list(methods.values())})
    counts = sizes.filter(pl.col("num_experts") == num_experts).select(
        "method", "n_parameters", percent="percent_without_router"
    )
    counts = named.join(counts, on="method", how="left").select("n_parameters", "percent", method="row")
    table = pl.concat(tables).join(counts, on="method", how="left")
    if "percent" in printed.columns:
        table = table.join(printed.select("method", percent_printed="percent"), on="method", how="left")
    if benchmarks is not None and len(benchmarks):
        scores = benchmarks.select("domain", "benchmark", "stderr", "chance", trained="method", score="value")
        trained = pl.col("method").replace(dict(methods)).alias("trained")
        table = table.with_columns(trained).join(scores, on=["domain", "trained"], how="left").drop("trained")
    return table


def domain_markdown(table: pl.DataFrame, reference: str) -> str:
    """A `domain_table` as Markdown: methods in rows, domains in columns, the paper's values in brackets."""
    domains = table["domain"].unique(maintain_order=True).to_list()
    methods = table["method"].unique(maintain_order=True).to_list()
    head = ["", *domains, "%Param ours (paper)"]
    lines = [head, ["---"] * len(head)]
    cells = {(row["domain"], row["method"]): row for row in table.iter_rows(named=True)}
    for method in methods:
        rows = [cells.get((domain, method)) for domain in domains]
        cells_of_row = ["" if row is None else _cell(row) for row in rows]
        lines.append([method, *cells_of_row, _percent(next(row for row in rows if row is not None))])
    notes = (
        f"Ours: held-out loss of an answer token, its difference to {reference} with a 95% interval, the same of the "
        "mean over tasks, the number of seeds, and where measured the benchmark's score ± standard error and chance. "
        "In brackets: what the paper prints for LLaMA2-7B, in percent."
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{notes}\n"


def cost_markdown(table: pl.DataFrame) -> str:
    """Energy and time as Markdown, with the paper's values in brackets.

    Args:
        table: `method, tokens_per_second, peak_memory_gib` and `cpu_kwh, gpu_kwh, ram_kwh, hours`, each of the last
            four also with the suffix `_printed`.
    """
    measures = ("cpu_kwh", "gpu_kwh", "ram_kwh", "hours")
    head = ["", *measures, "tokens/s", "peak GiB"]
    lines = [head, ["---"] * len(head)]
    for row in table.iter_rows(named=True):
        ours = [
            ("" if row[name] is None else f"{row[name]:.5f}") + f" ({row[f'{name}_printed']:g})" for name in measures
        ]
        lines.append([row["method"], *ours, f"{row['tokens_per_second']:,.0f}", f"{row['peak_memory_gib']:.2f}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plain_markdown(table: pl.DataFrame) -> str:
    """Any table as Markdown, with numbers to four decimal places."""
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [
        ["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in table.iter_rows()
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Mapping[str, float | None]) -> str:
    parts = [f"{row['loss']:.4f}"]
    if row["difference"] is not None:
        parts += [
            f"{row[name]:+.4f} [{row[f'{name}_low']:+.4f}, {row[f'{name}_high']:+.4f}]"
            for name in ("difference", "macro_difference")
        ]
    parts.append(f"seeds: {row['n_seeds']}")
    score = row.get("score")
    if score is not None:
        chance = "" if row["chance"] is None else f", chance {100 * row['chance']:.0f}"
        parts.append(f"{row['benchmark']} {100 * score:.1f} ± {100 * (row['stderr'] or 0):.1f}{chance}")
    if row["printed"] is not None:
        parts.append(f"({row['printed']:g})")
    return "; ".join(parts)


def _percent(row: Mapping[str, float | None]) -> str:
    ours = "" if row["percent"] is None else f"{row['percent']:.3f}"
    printed = row.get("percent_printed")
    return ours if printed is None else f"{ours} ({printed:g})"
