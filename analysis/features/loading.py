"""Load saved features of any kind."""

from pathlib import Path

from analysis.atomic_files import load_json
from analysis.features.vectoriser import Features


def load_features(folder: Path) -> Features:
    """Load features of any kind from the folder they were saved to.

    Raises:
        ValueError: the folder has features of a kind that this version does not know.
    """
    from analysis.features.embeddings import SentenceEmbeddings
    from analysis.features.lsa import TfidfLsa

    kinds: dict[str, type[Features]] = {"tfidf_lsa": TfidfLsa, "sentence_embeddings": SentenceEmbeddings}
    kind = load_json(Path(folder) / "features.json").get("kind")
    if kind not in kinds:
        raise ValueError(f"expected features of kind {' or '.join(kinds)} in {folder}, got {kind!r}")
    return kinds[kind].load(folder)
