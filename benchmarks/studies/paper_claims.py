"""What the paper says of pairs of methods, and the differences of the same pairs in our runs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import polars as pl

from analysis.methods.comparison import compare_on_both
from pipelines.study.experiments import EXPERIMENTS, GENERAL, MIXED, SINGLE, TRAINED_AS


@dataclass(frozen=True)
class Claim:
    """In the paper's table, `better` has a better score than `worse` (in the mean over domains, or in all)."""

    table: str
    better: str
    worse: str
    domains: tuple[str, ...]


def _claims() -> Iterator[Claim]:
    yield Claim("table_1", "lora_r16", "lora_r8", (GENERAL,))
    yield Claim("table_1", "lora_r32", "lora_r16", (GENERAL,))
    yield Claim("table_2", "full", "hydralora", SINGLE)
    for method in EXPERIMENTS["table_2"].methods:
        if method not in ("full", "hydralora", *TRAINED_AS):
            yield Claim("table_2", "hydralora", method, SINGLE)
    yield Claim("table_3", "hydralora", "lora_moe", (MIXED,))
    yield Claim("table_3", "hydralora", "lora_r8", (MIXED,))
    yield Claim("table_3", "lora_moe", "lora_r8", (MIXED,))
    for method in EXPERIMENTS["table_5"].methods:
        if method != "hydralora":
            yield Claim("table_5", "hydralora", TRAINED_AS.get(method, method), EXPERIMENTS["table_5"].domains)
    yield Claim("figure_2", "full", "lora_matched", EXPERIMENTS["figure_2"].domains)
    yield Claim("figure_2", "hydralora", "lora_matched", EXPERIMENTS["figure_2"].domains)


CLAIMS = tuple(_claims())


def compare_claims(losses: pl.DataFrame, resamples: int) -> pl.DataFrame:
    """One row for each claim and domain of which both methods are there, with the columns of `compare_on_both`.

    Args:
        losses: the columns of `compare_losses`, `domain` and `num_experts`.
    """
    tables = []
    for claim in CLAIMS:
        (n,) = EXPERIMENTS[claim.table].num_experts
        own = losses.filter(pl.col("num_experts") == n, pl.col("method").is_in([claim.better, claim.worse]))
        for domain in claim.domains:
            pair = own.filter(pl.col("domain") == domain)
            if pair["method"].n_unique() < 2:
                continue
            compared = compare_on_both(pair, claim.worse, resamples=resamples).filter(method=claim.better)
            named = {name: pl.lit(value) for name, value in asdict(claim).items() if name != "domains"}
            tables.append(
                compared.drop("method").select(pl.lit(domain).alias("domain"), pl.all()).with_columns(**named)
            )
    return pl.concat(tables) if tables else pl.DataFrame()
