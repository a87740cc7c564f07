"""The documents on which methods are compared."""

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.store.metadata import markdown_table
from pipelines.study.running.run_documents import SplitConfig, parts_overlap, write_run_documents
from pipelines.training.documents import expert_count, labelled_documents


def _described(artifact: Artifact) -> Description:
    overlap = parts_overlap(artifact)
    return Description(
        metadata={"parts": markdown_table(artifact.read("parts"))},
        checks=[
            Check("parts_do_not_overlap", overlap == 0, f"{overlap} documents are in two parts", {"overlap": overlap})
        ],
    )


@artifact_asset(
    group="comparison",
    kinds={"polars"},
    describe=_described,
    blocking={"parts_do_not_overlap": "No document is both trained on and measured."},
)
def comparison_documents(
    draft: Draft,
    config: SplitConfig,
    corpus_documents: Artifact,
    tokenised_documents: Artifact,
    cluster_labels: Artifact,
    expert_assignment: Artifact,
) -> None:
    """Tokens of three parts: documents to train on, documents to tune learning rates on, and held-out documents.

    All methods get the same N, the number of groups in `expert_assignment`.
    """
    labelled = labelled_documents(corpus_documents, cluster_labels, expert_assignment)
    write_run_documents(draft, tokenised_documents, labelled, config)
    draft.write_json("num_experts", expert_count(expert_assignment))
