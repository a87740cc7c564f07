"""Comparison of methods on the same held-out documents: losses and differences, with intervals."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KEY = ["seed", "source", "document_id"]
_CONFIDENCE = (0.025, 0.975)
_NUMBERS = ("loss", "loss_low", "loss_high", "perplexity", "difference", "difference_low", "difference_high")
_SCHEMA = pl.Schema(
    {"method": pl.String, "n_seeds": pl.Int64, "n_documents": pl.Int64} | dict.fromkeys(_NUMBERS, pl.Float64)
)


def compare_losses(
    losses: pl.DataFrame,
    reference: str,
    *,
    mean_over: Literal["source", "task", "token"] = "source",
    resamples: int = 1_000,
    random_state: int = 0,
) -> pl.DataFrame:
    """Held-out loss of each method and its difference from a reference, with 95% bootstrap intervals.

    The loss is the mean over answer tokens within each source, then the mean over sources. So a source with long
    answers does not count more. The bootstrap resamples seeds (if there are several), the tasks of each source (if the
    losses have a column `task`) and the documents of each task. All methods use the same resamples, so differences are
    paired.

    Args:
        losses: `method, seed, source, document_id, loss, n_tokens`, where loss is the sum over a document's answer
            tokens. Every method needs the same seeds and documents. `task` is optional; null is a task of its own.
        reference: method whose loss is subtracted.
        mean_over: what counts alike: each source, each task of each source, or each answer token.

    Returns:
        One row per method, best first: `method, n_seeds, n_documents, loss, loss_low, loss_high, perplexity,
        difference, difference_low, difference_high`. The differences of the reference are null.

    Raises:
        ValueError: the reference is not among the methods, or methods have different documents or seeds.
    """
    methods = losses["method"].unique(maintain_order=True).to_list()
    if reference not in methods:
        raise ValueError(f"Expected a reference among the methods {', '.join(methods)}, got {reference!r}")
    values, documents = _aligned(losses, methods)
    tokens = documents["n_tokens"].to_numpy().astype(np.float64)
    groups = _rows_by(documents, {"source": ["source"], "task": ["source", "task"], "token": []}[mean_over])
    random = np.random.default_rng(random_state)
    draws = _drawn_documents(documents, resamples, random)
    drawn = _over_seeds(_means(values, tokens, draws, groups, by_draws=mean_over == "task"), random)
    means = _means(values, tokens, np.ones((1, len(tokens))), groups)[0].mean(axis=1)
    baseline = methods.index(reference)
    rows = []
    for i, method in enumerate(methods):
        low, high = np.quantile(drawn[:, i], _CONFIDENCE)
        difference: tuple[float | None, ...] = (None, None, None)
        if i != baseline:
            bounds = np.quantile(drawn[:, i] - drawn[:, baseline], _CONFIDENCE)
            difference = (float(means[i] - means[baseline]), float(bounds[0]), float(bounds[1]))
        sizes = (values.shape[1], values.shape[2])
        rows.append((method, *sizes, means[i], low, high, np.exp(means[i]), *difference))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort("loss")


def compare_on_both(losses: pl.DataFrame, reference: str, *, resamples: int = 1_000) -> pl.DataFrame:
    """`compare_losses` over answer tokens, and beside it over tasks. Each method is compared on the seeds it shares.

    Returns:
        The columns of `compare_losses` with `mean_over="token"`, in the order of the methods, and of "task" the columns
        `macro_loss, macro_difference, macro_difference_low, macro_difference_high`.
    """
    rows = []
    for method in losses["method"].unique(maintain_order=True):
        pair = losses.filter(pl.col("method").is_in([method, reference]))
        shared = pl.col("method").n_unique().over("seed") == pair["method"].n_unique()
        token, macro = (
            compare_losses(pair.filter(shared), reference, mean_over=mean, resamples=resamples).filter(method=method)
            for mean in ("token", "task")
        )
        beside = macro.select(pl.col("loss", "difference", "difference_low", "difference_high").name.prefix("macro_"))
        rows.append(pl.concat([token, beside], how="horizontal"))
    return pl.concat(rows)


def losses_by_source(losses: pl.DataFrame) -> pl.DataFrame:
    """Mean answer-token loss within each source, averaged over seeds: `method, source, loss`."""
    within = losses.group_by("method", "source", "seed", maintain_order=True).agg(
        loss=pl.col("loss").sum() / pl.col("n_tokens").sum()
    )
    return within.group_by("method", "source", maintain_order=True).agg(pl.col("loss").mean())


def _aligned(losses: pl.DataFrame, methods: list[str]) -> tuple[Floats, pl.DataFrame]:
    """Losses [methods, seeds, documents], and the documents with source, task and number of answer tokens."""
    if "task" not in losses.columns:
        losses = losses.with_columns(task=pl.lit(None, pl.String))
    tables = [losses.filter(pl.col("method") == method).sort(KEY) for method in methods]
    first = tables[0].select(*KEY, "n_tokens")
    for method, table in zip(methods, tables, strict=True):
        if not table.select(*KEY, "n_tokens").equals(first):
            raise ValueError(
                f"Expected all methods on the same documents with the same seeds; {method} and {methods[0]} differ"
            )
    seeds = first["seed"].n_unique()
    documents = tables[0].filter(pl.col("seed") == first["seed"][0]).select("source", "task", "n_tokens")
    values = np.stack([table["loss"].to_numpy().reshape(seeds, len(documents)) for table in tables])
    return values.astype(np.float64), documents


def _rows_by(documents: pl.DataFrame, columns: list[str]) -> list[NDArray[np.int64]]:
    """Row numbers of each group; without columns, of all documents."""
    if not columns:
        return [np.arange(len(documents))]
    groups = documents.with_row_index("row").group_by(columns, maintain_order=True).agg("row")["row"]
    return [rows.to_numpy().astype(np.int64) for rows in groups]


def _means(
    values: Floats, tokens: Floats, draws: Floats, groups: list[NDArray[np.int64]], *, by_draws: bool = False
) -> Floats:
    """Mean over groups of the mean token loss [resamples, methods, seeds].

    Args:
        values: [methods, seeds, documents], summed loss of each document.
        tokens: [documents], number of answer tokens.
        draws: [resamples, documents], how often each document was drawn.
        groups: document indices of each group.
        by_draws: whether a group counts as often as it was drawn. If not, each counts once.
    """
    means, total = np.zeros((len(draws), *values.shape[:2])), np.zeros(len(draws))
    for rows in groups:
        drawn = draws[:, rows]
        counts = drawn @ tokens[rows]
        times = drawn.mean(axis=1) if by_draws else np.ones(len(draws))
        sums = np.einsum("rd,msd->rms", drawn, values[:, :, rows], optimize=True)
        means += sums * np.divide(times, counts, out=np.zeros_like(counts), where=counts > 0)[:, None, None]
        total += times
    return means / total[:, None, None]


def _drawn_documents(documents: pl.DataFrame, resamples: int, random: np.random.Generator) -> Floats:
    """How often each document is drawn [resamples, documents]: tasks of each source first, then documents of each."""
    draws = np.zeros((resamples, len(documents)))
    for of_source in _rows_by(documents, ["source"]):
        tasks = [of_source[rows] for rows in _rows_by(documents[of_source], ["task"])]
        times = random.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), resamples)
        for rows, of_task in zip(tasks, times.T, strict=True):
            draws[:, rows] = random.multinomial(of_task * len(rows), np.full(len(rows), 1 / len(rows)))
    return draws


def _over_seeds(means: Floats, random: np.random.Generator) -> Floats:
    """Mean over resampled seeds [resamples, methods] of means [resamples, methods, seeds]."""
    seeds = means.shape[2]
    weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), len(means)) / seeds
    return np.einsum("rms,rs->rm", means, weights)


def comparison_markdown(table: pl.DataFrame, reference: str) -> str:
    """The comparison as a Markdown table, best method first.

    Args:
        table: table from `compare_losses`, with `learning_rate` and the parameter counts `a, b, router, shared_expert,
            shared_lora, other, n_parameters`. If costs were measured, also `tokens_per_second, generated_per_second,
            peak_memory_gib, hours, cpu_kwh, gpu_kwh, ram_kwh`. Missing values are left empty.
        reference: method whose loss is subtracted.
    """
    columns = {
        "method": lambda row: row["method"],
        "held-out loss": lambda row: _interval(row, "loss", "{:.4f}"),
        f"minus {reference}": lambda row: _interval(row, "difference", "{:+.4f}"),
        "perplexity": lambda row: _number(row["perplexity"], "{:.3f}"),
        "trained": lambda row: _number(row["n_parameters"], "{:,}"),
        "A / B / shared LoRA / router / other": _parts,
        "rate": lambda row: _number(row["learning_rate"], "{:g}"),
    }
    if "hours" in table.columns:
        columns |= {
            "trained tokens/s": lambda row: _number(row["tokens_per_second"], "{:,.0f}"),
            "generated tokens/s": lambda row: _number(row["generated_per_second"], "{:,.0f}"),
            "peak GiB": lambda row: _number(row["peak_memory_gib"], "{:.2f}"),
            "hours": lambda row: _number(row["hours"], "{:.4f}"),
            "kWh CPU / GPU / RAM": lambda row: _joined(row, ("cpu_kwh", "gpu_kwh", "ram_kwh"), "{:.5f}"),
        }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row) for cell in columns.values()] for row in table.sort("loss").iter_rows(named=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _interval(row: dict[str, float], name: str, form: str) -> str:
    values = [_number(row[column], form) for column in (name, f"{name}_low", f"{name}_high")]
    return "{} [{}, {}]".format(*values) if values[0] else ""


def _parts(row: dict[str, int]) -> str:
    """Parameter counts as text. The always-on expert counts as one more B."""
    if row["n_parameters"] is None:
        return ""
    parts = (row["a"], row["b"] + row["shared_expert"], row["shared_lora"], row["router"], row["other"])
    return " / ".join(f"{n:,}" for n in parts)


def _joined(row: dict[str, float | None], names: tuple[str, ...], form: str) -> str:
    return " / ".join(_number(row[name], form) for name in names if row[name] is not None)
