"""The paper's tables and figures from the runs of the study: our values, the printed values, and the differences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.thumbnails import write_thumbnail
from pipelines.study.experiments import EXPERIMENTS, GENERAL, TRAINED_AS
from pipelines.study.study_documents import Corpus
from pipelines.training.losses import BASE

if TYPE_CHECKING:
    from analysis.figures import Picture

REFERENCES = {"table_1": "lora_r8", "table_2": "lora_r16", "table_3": "lora_r8", "table_5": "hydralora"}
DIFFERS = (
    "What differs from the paper: base model, budget and corpora are those of this configuration. Quality is the "
    "held-out answer loss in the corpus that was trained on; the paper has scores in a benchmark. "
)
NOTES = {
    "table_1": "LoRA (Split) of r x n is the LoRA of rank r n, parameter for parameter, step for step.",
    "table_2": "lora_split_8x4, four LoRAs of rank 8, is lora_r32 in the same way.",
    "table_3": "The paper trains 48 LoRAs for LoRA MoE and LoraHub; here both have as many as HydraLoRA has experts. "
    "The paper's means of LoRA and LoRA MoE (36.8, 40.3) are not those of its own rows (38.1, 40.0).",
    "table_5": "without_moe is lora_r8. without_hydra has as many A as experts; the paper's row is its LoRA-Split.",
}


@dataclass(frozen=True)
class PaperInputs:
    """The inputs of all tables and figures."""

    runs: Artifact
    benchmarks: Artifact
    corpus: Corpus
    resamples: int

    @property
    def domains(self) -> Mapping[str, list[str]]:
        """Domain -> its sources, from the study's configuration."""
        return self.runs.record["config"]["domains"]

    def losses(self) -> pl.DataFrame:
        """Losses of every document in every run, with the task of each document."""
        tasks = self.corpus.documents.read("documents").select("document_id", "task")
        return self.runs.read("losses").join(tasks, on="document_id", how="left", maintain_order="left")


def domain_table(draft: Draft, inputs: PaperInputs, name: str) -> None:
    """Tables 1, 2, 3 and 5: methods by domains."""
    from analysis.methods import paper, paper_tables

    printed = {
        "table_1": paper.TABLE_1,
        "table_2": paper.TABLE_2,
        "table_3": paper.TABLE_3_MEANS,
        "table_5": paper.TABLE_5,
    }
    (n,) = EXPERIMENTS[name].num_experts
    # If a benchmark has several tasks, its first row is the mean over them.
    scores = inputs.benchmarks.read("scores").filter(pl.col("num_experts") == n)
    scores = scores.unique(["domain", "method", "benchmark"], keep="first", maintain_order=True)
    table = paper_tables.domain_table(
        inputs.losses(),
        {BASE: BASE} | {method: TRAINED_AS.get(method, method) for method in EXPERIMENTS[name].methods},
        n,
        REFERENCES[name],
        printed[name],
        inputs.runs.read("sizes"),
        benchmarks=scores,
        resamples=inputs.resamples,
    )
    draft.write_table("table", table)
    write_text(draft, paper_tables.domain_markdown(table, REFERENCES[name]), f"{DIFFERS}N={n}. {NOTES[name]}")


def cost_table(draft: Draft, inputs: PaperInputs, name: str) -> None:
    """Table 4: energy and time."""
    from analysis.methods.paper import TABLE_4
    from analysis.methods.paper_tables import cost_markdown

    costs = inputs.runs.read("costs")
    measured = pl.DataFrame(
        [(method, TRAINED_AS.get(method, method)) for method in TABLE_4["method"]],
        schema=("method", "trained"),
        orient="row",
    ).join(costs.rename({"method": "trained"}), on="trained", how="inner", maintain_order="left")
    table = measured.drop("trained").join(TABLE_4, on="method", suffix="_printed", maintain_order="left")
    draft.write_table("table", table)
    write_text(
        draft,
        cost_markdown(table),
        "What differs from the paper: base model, machine and budget are those of this configuration. Some steps of "
        "each method were trained alone on the machine, and their mean power and speed taken for the whole budget.",
    )


def heterogeneity(draft: Draft, inputs: PaperInputs, name: str) -> None:
    """Figure 2: the gain of HydraLoRA and full fine-tuning over LoRA, against the heterogeneity of the corpus."""
    from analysis.clusters.heterogeneity import measure_heterogeneity
    from analysis.figures.paper import heterogeneity_gaps
    from analysis.methods.comparison import compare_on_both

    reference, *others = EXPERIMENTS[name].methods
    losses = inputs.losses()
    rows = []
    for domain, sources in inputs.domains.items():
        documents, features = inputs.corpus.domain(sources)
        index = measure_heterogeneity(features[(documents["split"] == "train").to_numpy()]).index
        own = losses.filter(pl.col("domain") == domain, pl.col("num_experts") == EXPERIMENTS[name].num_experts[0])
        own = own.filter(pl.col("method").is_in([reference, *others]))
        compared = compare_on_both(own, reference, resamples=inputs.resamples)
        place = (pl.lit(domain).alias("domain"), pl.lit(index).alias("index"))
        rows.append(compared.filter(pl.col("method") != reference).select(*place, pl.all()))
    table = pl.concat(rows).sort("method", "index")
    write_figure(
        draft,
        heterogeneity_gaps(table),
        table,
        "What differs from the paper: it shows full fine-tuning and several PEFT methods on corpora of growing "
        "heterogeneity, without a number for it; here the index is Rao's quadratic entropy "
        "(`analysis.clusters.heterogeneity`).",
    )


def clusters_by_loss(draft: Draft, inputs: PaperInputs, name: str) -> None:
    """Figure 5: the SSE of K-means against K, beside the loss against N."""
    from analysis.clusters.kmeans import sweep_kmeans
    from analysis.figures.paper import clusters_and_losses
    from analysis.methods.comparison import compare_on_both

    documents, features = inputs.corpus.domain(inputs.domains[GENERAL])
    sweep = sweep_kmeans(features[(documents["split"] == "train").to_numpy()], range(1, 11))
    losses = inputs.losses().filter(pl.col("domain") == GENERAL)
    by_n = losses.filter(pl.col("method") == "hydralora", pl.col("num_experts").is_in(EXPERIMENTS[name].num_experts))
    alone = losses.filter(pl.col("method") == "lora_r8", pl.col("num_experts") == 3).with_columns(num_experts=1)
    named = pl.concat([alone, by_n]).with_columns(method=pl.col("num_experts").cast(pl.String))
    compared = compare_on_both(named, named["method"][0], resamples=inputs.resamples)
    table = compared.with_columns(num_experts=pl.col("method").cast(pl.Int64)).drop("method").sort("num_experts")
    curve = pl.DataFrame({"n_clusters": sweep.n_clusters, "inertia": sweep.inertia})
    draft.write_table("sweep", curve)
    write_figure(
        draft,
        clusters_and_losses(curve, table),
        table,
        "The paper finds N from 2 to 4 about equal on Dolly: its best, N=4, is 0.42% above N=3 in MMLU. N = 1 is "
        "lora_r8. Differences are to the smallest N.",
    )


def write_text(draft: Draft, table: str, differs: str) -> None:
    """Write the table as Markdown, for people."""
    draft.write_bytes("table.md", f"{table}\n{differs}\n".encode())


def write_figure(draft: Draft, picture: "Picture", table: pl.DataFrame, differs: str) -> None:
    """Write a figure and its numbers, and a Markdown page with both for people."""
    from analysis.figures import png
    from analysis.methods.paper_tables import plain_markdown

    draft.write_table("table", table)
    draft.write_bytes("figure.png", png(picture.figure))
    write_text(draft, plain_markdown(table), f"{picture.caption}\n\n{differs}")
    write_thumbnail(draft, picture)


WRITERS: dict[str, tuple[str, Callable[[Draft, PaperInputs, str], None]]] = {
    "table_1": ("Ranks and splits of LoRA on Dolly.", domain_table),
    "table_2": ("All methods on five domains.", domain_table),
    "table_3": ("LoRA, LoraHub, LoRA MoE and HydraLoRA on many tasks.", domain_table),
    "table_4": ("Energy and time of fine-tuning on GSM8K.", cost_table),
    "table_5": ("HydraLoRA without each of its parts.", domain_table),
    "figure_2": ("Heterogeneity of the corpus against what is gained over LoRA.", heterogeneity),
    "figure_5": ("K of K-means beside the loss by N.", clusters_by_loss),
}
