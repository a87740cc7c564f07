"""Load saved features of any kind."""

from pathlib import Path
from typing import Any

from analysis.atomic_files import load_json
from analysis.features.hidden_states import Encoder, HiddenStates
from analysis.features.vectoriser import Features


def load_features(folder: Path, encoder: Encoder | None = None) -> Features:
    """Load features of any kind from the folder they were saved to.

    Args:
        folder: folder that `save` wrote.
        encoder: encoder for features that read hidden states. Without it, they cannot transform texts.

    Raises:
        ValueError: the folder has features of a kind that this version does not know.
    """
    from analysis.features.embeddings import SentenceEmbeddings
    from analysis.features.joint import JointFeatures
    from analysis.features.lsa import TfidfLsa

    kinds: dict[str, type[Features]] = {
        "tfidf_lsa": TfidfLsa,
        "sentence_embeddings": SentenceEmbeddings,
        "hidden_states": HiddenStates,
        "joint": JointFeatures,
    }
    kind = load_json(Path(folder) / "features.json").get("kind")
    if kind not in kinds:
        raise ValueError(f"expected features of kind {' or '.join(kinds)} in {folder}, got {kind!r}")
    if kind == "hidden_states":
        return HiddenStates.load(folder, encoder)
    if kind == "joint":
        return JointFeatures.load(folder, encoder)
    return kinds[kind].load(folder)


def encoded_by(folder: Path) -> dict[str, Any] | None:
    """The encoder of saved features' hidden states; None for features without them, which read texts themselves."""
    saved = load_json(Path(folder) / "features.json")
    if "hidden" in saved.get("views", ()):
        return encoded_by(Path(folder) / "hidden")
    return dict(saved["parameters"]["encoded_by"]) if saved.get("kind") == "hidden_states" else None
