"""`hydralora assign`: shows an `analysis.Assignment`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines.cli.output import checked_file, columns_of, fail, one_error, print_json
from pipelines.store.files.disk import DiskFullError, clear_disk_errors


def assign_files(
    corpus: Path, files: Sequence[str], columns: Sequence[str], labels: Path | None, as_json: bool
) -> None:
    """Assign the documents in files; print the share of each cluster and the verdict."""
    folder = corpus if (corpus / "corpus_model.json").is_file() else corpus / "corpus_model"
    if not (folder / "corpus_model.json").is_file():
        fail(
            f"{corpus}: expected a folder that `hydralora analyze` wrote, or `corpus_model` in the artifact "
            "cluster_labels of a run, found no corpus_model.json"
        )
    mapping = columns_of(columns)
    if labels is not None:
        checked_file(labels, "--labels")
    written = labels or Path()
    with one_error(ValueError, OSError, DiskFullError), clear_disk_errors(written.parent, "name another file"):
        from analysis.answer.named_files import named_sources
        from analysis.clusters.assignment import assign_records, cluster_shares
        from analysis.sources import read_sources

        read = read_sources(named_sources(files, mapping))
        assignment = assign_records(read.records, folder, labels)
    shares = cluster_shares(assignment)
    if as_json:
        print_json({"clusters": shares.to_dicts(), "drift": asdict(assignment.drift)})
        return
    for cluster, n_documents, share, of_corpus in shares.iter_rows():
        print(f"cluster {cluster:>2}  {n_documents:>9,} documents  {share:>6.1%}  (corpus {of_corpus:.1%})")
    print(assignment.drift.reason)
    if labels is not None:
        print(f"Labels: {labels.resolve()}")
