"""Plain LoRAs of the trained adapter, for servers that do not know it: one for each domain, one for other prompts."""

import shutil

import dagster as dg
import polars as pl

from pipelines.defs.gates import GROUP_MODEL
from pipelines.store.artifacts import Artifact, Draft, source_version
from pipelines.store.assets import Check, artifact_asset, markdown_table, materialized
from pipelines.store.io_manager import ArtifactStore
from pipelines.training.adapters import documents_table, load_adapter, tokenised
from pipelines.training.exporting import (
    OTHERS,
    DomainDocuments,
    domain_gates,
    folder_names,
    plain_peft_differences,
    write_exports,
)
from pipelines.training.recipe import BaseModel, Recipe

VERSION = source_version(
    "hydralora",
    "pipelines.training.adapters",
    "pipelines.defs.exports",
    "pipelines.training.exporting",
    "pipelines.training.plain_peft",
)
# Nats. bfloat16 moves the loss of a single token by some tenths: a layer adds its parts in another order.
TOLERANCE, TOLERANCE_OF_TOKEN = 0.05, 0.4


class ExportsConfig(dg.Config):
    """Documents of each domain: held-out ones to measure with, training ones for the mean gates of routers."""

    max_documents_per_domain: int = 20
    batch_tokens: int = 2_048


@artifact_asset(
    group="serving",
    version=VERSION,
    kinds={"torch"},
    blocking=("plain_peft_agrees",),
    pool="gpu",
)
def domain_exports(
    config: ExportsConfig,
    store: dg.ResourceParam[ArtifactStore],
    recipe: Recipe,
    base_model: BaseModel,
    corpus_documents: Artifact,
    cluster_labels: Artifact,
    prompt_gates: Artifact,
    hydralora_adapter: Artifact,
) -> dg.MaterializeResult:
    """One plain LoRA for each domain, what it costs against live gates, and whether peft alone gives the same losses.

    A domain is a group of `prompt_gates`. Where gates are given, its LoRA is its expert (and the one that is always
    on), exactly; the gates of a router are measured on training documents of the domain and averaged. The folder has
    all that a server needs: the LoRAs, the model that finds the domain of a prompt, and `serving.json`.
    """

    def build(draft: Draft) -> None:
        from hydralora.base_model import EMBEDDED, provision_embedded_base_model
        from hydralora.data import pad_token_id

        model, tokenizer = load_adapter(base_model, hydralora_adapter.folder)
        documents = documents_table(corpus_documents, cluster_labels, prompt_gates)

        def part(split: str) -> DomainDocuments:
            rows = domain_documents(documents, prompt_gates, split, config.max_documents_per_domain)
            tokens = tokenised(draft, split, rows.lazy(), tokenizer, recipe).for_adapter(model.active_peft_config)
            labels = dict(zip(rows["document_id"], rows.select("domain", "found").iter_rows(), strict=True))
            domains, found = zip(*(labels[key] for key in tokens.column("document_id")), strict=True)
            (draft.folder / f"{split}.parquet").unlink()
            return DomainDocuments(tokens, domains, found, pad_token_id(tokenizer), config.batch_tokens)

        groups = prompt_gates.json("prompt_gates")["groups"]
        gates = domain_gates(model, groups, lambda: part("train"))
        folders = folder_names(list(gates))
        held_out = part("test")
        table = write_exports(draft.folder, model, gates, folders, held_out)
        if not base_model.load_in_4bit:
            base = str(provision_embedded_base_model()) if base_model.name == EMBEDDED else base_model.name
            differences = plain_peft_differences(draft.folder, model, gates, table, held_out, base, base_model.revision)
            table = table.hstack(differences)
        draft.write_table("exports", table)
        shutil.copytree(prompt_gates.path(GROUP_MODEL), draft.folder / GROUP_MODEL, dirs_exist_ok=True)
        domains = {domain: folder for domain, folder in folders.items() if domain != OTHERS}
        draft.write_json("serving", {"domains": domains, "others": folders[OTHERS], "template": recipe.template})

    artifact = store.build(
        "domain_exports",
        build,
        code_version=VERSION,
        config={**config.model_dump(), **base_model.identity(), **recipe.text_identity()},
        inputs={
            "corpus_documents": corpus_documents,
            "cluster_labels": cluster_labels,
            "prompt_gates": prompt_gates,
            "hydralora_adapter": hydralora_adapter,
        },
    )
    table = artifact.read("exports")
    agrees, found = agreement(table)
    return materialized(
        artifact,
        table="exports",
        metadata={"exports": markdown_table(table, rows=100)},
        checks=[Check("plain_peft_agrees", agrees, found)],
    )


def agreement(table: pl.DataFrame) -> tuple[bool, str]:
    """Whether peft alone gives the losses of here, up to rounding, and by how much they differ."""
    if "plain_peft_difference" not in table.columns:
        return True, "not checked"
    difference = pl.col("plain_peft_difference").abs()
    limit = pl.max_horizontal(TOLERANCE, TOLERANCE_OF_TOKEN / pl.col("plain_peft_tokens").sqrt())
    worst = table.select(difference.max()).item() or 0.0
    text = f"losses under peft alone differ by {worst:.2g} nats at most, in the mean over the tokens seen"
    return table.select((difference <= limit).all()).item(), text


def domain_documents(
    documents: pl.LazyFrame, prompt_gates: Artifact, split: str, max_documents: int
) -> pl.DataFrame:  # fmt: skip
    """The documents of a split with `domain` and `found` (its prompt tells the domain), capped in each domain."""
    experts = prompt_gates.scan("experts").select(
        "document_id", domain="group", found=pl.col("group") == pl.col("predicted")
    )
    return (
        documents.filter(pl.col("split") == split)
        .join(experts, on="document_id")
        .sort("domain", "document_id")
        .filter(pl.int_range(pl.len()).over("domain") < max_documents)
        .collect()
    )
