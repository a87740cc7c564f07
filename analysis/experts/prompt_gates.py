"""Gates for adapters whose expert is chosen by the prompt (router_input="given" in `hydralora`).

group_model = load_group_model(adapter / "group_model")
gates = torch.from_numpy(prompt_gates(group_model, prompts))
with hydralora.expert_gates(model, gates):
    model.generate(**batch)
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.atomic_files import of_this_version
from analysis.text.blocks import Texts


class GroupModel(Protocol):
    """Predicts the group of a prompt: a `PromptClassifier` or a `CorpusModel`."""

    @property
    def n_groups(self) -> int:
        """Number of groups, which is the number of experts."""

    def assign(self, texts: Texts) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Group number [n] of each prompt, and a distance [n] (0 is the best fit)."""

    def soft_assign(self, texts: Texts, temperature: float) -> NDArray[np.float32]:
        """Soft group weights [n, n_groups]; each row sums to one."""

    def save(self, folder: Path) -> None:
        """Write everything that `load_group_model` needs."""


def prompt_gates(model: GroupModel, prompts: Texts) -> NDArray[np.float32]:
    """One-hot gates [n, n_groups]: 1 for the expert of the prompt's group, 0 for the others."""
    return np.eye(model.n_groups, dtype=np.float32)[model.assign(prompts)[0]]


def load_group_model(folder: Path | str) -> GroupModel:
    """Load a group model of either kind from the folder it was saved to.

    Raises:
        ValueError: the folder has no group model, or one of another version.
    """
    from analysis.clusters.corpus_model import CorpusModel
    from analysis.experts.prompt_classifier import PromptClassifier

    folder = Path(folder)
    kinds: dict[str, type[PromptClassifier | CorpusModel]] = {
        "classifier.json": PromptClassifier,
        "centers.npy": CorpusModel,
    }
    for name, kind in kinds.items():
        if (folder / name).exists():
            with of_this_version(folder):
                return kind.load(folder)
    raise ValueError(f"expected {' or '.join(kinds)} in {folder}, got neither; was a group model saved there?")
