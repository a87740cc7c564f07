"""Plain LoRAs of the trained adapter, for servers without `hydralora`: one per domain, and one for other prompts."""

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.corpus.experts import GROUP_MODEL
from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table
from pipelines.training.adapters import load_adapter
from pipelines.training.documents import labelled_documents, read_tokens
from pipelines.training.exports.cross_losses import cross_losses
from pipelines.training.exports.exporting import (
    DomainDocuments,
    domain_gates,
    folder_names,
    plain_peft_differences,
    write_exports,
)
from pipelines.training.exports.serving_files import write_serving_files
from pipelines.training.recipe import BaseModel

# In nats. In bfloat16, the loss of a single token changes by some tenths, because sums run in another order.
TOLERANCE, TOLERANCE_OF_TOKEN = 0.05, 0.4


class ExportsConfig(dg.Config):
    """Documents of each domain: held-out ones to measure with, training ones for the mean gates of routers."""

    max_documents_per_domain: int = Field(20, ge=1)
    batch_tokens: int = Field(2_048, ge=1)


def _described(artifact: Artifact) -> Description:
    table = artifact.read("exports")
    agrees, found, largest = agreement(table)
    return Description(
        table="exports",
        metadata={"exports": markdown_table(table, rows=100)},
        checks=[Check("plain_peft_agrees", agrees, found, {"largest_difference": largest})],
    )


@artifact_asset(
    group="serving",
    kinds={"pytorch"},
    describe=_described,
    blocking={"plain_peft_agrees": "peft alone gives the same losses with the exports, up to rounding."},
    pool="gpu",
)
def domain_exports(
    draft: Draft,
    config: ExportsConfig,
    base_model: BaseModel,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    cluster_labels: Artifact,
    cluster_names: Artifact,
    expert_assignment: Artifact,
    hydralora_adapter: Artifact,
) -> None:
    """One plain LoRA for each domain, its loss compared with live gates, and whether peft alone gives the same losses.

    A domain is a group of `expert_assignment`. If gates are given, the domain's LoRA is exactly its expert (plus the
    always-on LoRA). If gates are routed, the router's gates are averaged over training documents of the domain. The
    folder has everything that a server needs: the LoRAs, the model that predicts the domain of a prompt, a chat
    template that writes conversations as training did, and `serving.json`.
    """
    from hydralora.base_model import EMBEDDED, provision_embedded_base_model, remembered_lower_layers
    from hydralora.data import Frame, pad_token_id

    model, tokenizer = load_adapter(base_model, hydralora_adapter.folder)
    documents = labelled_documents(corpus_documents, cluster_labels, expert_assignment)

    def part(split: str) -> DomainDocuments:
        rows = domain_documents(documents, expert_assignment, split, config.max_documents_per_domain)
        tokens = read_tokens(tokenised_documents, rows).for_adapter(model.active_peft_config)
        labels = dict(zip(rows["document_id"], rows.select("domain", "found").iter_rows(), strict=True))
        domains, found = zip(*(labels[key] for key in tokens.column("document_id")), strict=True)
        return DomainDocuments(tokens, domains, found, pad_token_id(tokenizer), config.batch_tokens)

    template = tokenised_documents.record["config"]["template"]
    assignment = expert_assignment.json("expert_assignment")
    groups = assignment["groups"]
    names = given_names(cluster_names) if assignment["group_kind"] == "cluster" else {}
    gates = domain_gates(model, groups, lambda: part("train"))
    folders = folder_names(list(gates), names)
    held_out = part("test")
    with remembered_lower_layers(model):
        table = write_exports(draft.folder, model, gates, folders, held_out)
    draft.write_table("cross_losses", cross_losses(model, gates, held_out))
    if not base_model.load_in_4bit:
        base = str(provision_embedded_base_model()) if base_model.name == EMBEDDED else base_model.name
        differences = plain_peft_differences(draft.folder, model, gates, table, held_out, base, base_model.revision)
        table = table.hstack(differences)
    draft.write_table("exports", table)
    frame = Frame.of(tokenizer, template)
    write_serving_files(draft.folder, folders, expert_assignment.path(GROUP_MODEL), frame, template, names)


def given_names(cluster_names: Artifact) -> dict[str, str]:
    """Number of a cluster -> the name that a user or a model gave it; terms are no names of LoRAs."""
    named = cluster_names.read("names").filter(pl.col("named_by") != "terms")
    return dict(named.select(pl.col("cluster").cast(pl.String), "name").iter_rows())


def agreement(table: pl.DataFrame) -> tuple[bool, str, float | None]:
    """Whether peft alone gives the same losses up to rounding, a sentence, and the largest difference in nats."""
    if "plain_peft_difference" not in table.columns:
        return True, "not checked", None
    difference = pl.col("plain_peft_difference").abs()
    limit = pl.max_horizontal(TOLERANCE, TOLERANCE_OF_TOKEN / pl.col("plain_peft_tokens").sqrt())
    worst = table.select(difference.max()).item() or 0.0
    text = f"losses under peft alone differ by {worst:.2g} nats at most, in the mean over the tokens seen"
    return table.select((difference <= limit).all()).item(), text, worst


def domain_documents(
    documents: pl.LazyFrame, expert_assignment: Artifact, split: str, max_documents: int
) -> pl.DataFrame:
    """Documents of a split, capped per domain, with `domain` and `found` (whether the predicted domain is right)."""
    experts = expert_assignment.scan("experts").select(
        "document_id", domain="group", found=pl.col("group") == pl.col("predicted")
    )
    return (
        documents.filter(pl.col("split") == split)
        .join(experts, on="document_id")
        .sort("domain", "document_id")
        .filter(pl.int_range(pl.len()).over("domain") < max_documents)
        .collect()
    )
