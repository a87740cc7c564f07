"""Gates for adapters whose experts are chosen by the prompt (`hydralora`'s router_input="given").

group_model = load_group_model(adapter / "group_model")
gates = torch.from_numpy(prompt_gates(group_model, prompts))
with hydralora.expert_gates(model, gates):
    model.generate(**batch)
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.text.blocks import Texts


class GroupModel(Protocol):
    """Finds the group of a prompt: a `PromptClassifier` or a `CorpusModel`."""

    @property
    def n_groups(self) -> int:
        """The number of groups, which is the number of experts."""

    def assign(self, texts: Texts) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Number of each prompt's group, and how badly it fits (0 is best)."""

    def soft_assign(self, texts: Texts, temperature: float) -> NDArray[np.float32]:
        """Weights [n, n_groups] that sum to one."""

    def save(self, folder: Path) -> None:
        """Write all that `load_group_model` needs."""


def prompt_gates(model: GroupModel, prompts: Texts) -> NDArray[np.float32]:
    """Gates [n, n_groups]: one for the expert of each prompt's group, zero for the others."""
    return one_hot(model.assign(prompts)[0], model.n_groups)


def one_hot(labels: NDArray[Any], n_groups: int) -> NDArray[np.float32]:
    """Numbers of groups [n] as rows [n, n_groups]."""
    rows: NDArray[np.float32] = np.eye(n_groups, dtype=np.float32)[labels]
    return rows


def load_group_model(folder: Path | str) -> GroupModel:
    """Read a model of groups of either kind from the folder it was saved to.

    Raises:
        ValueError: if the folder has none.
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
            return kind.load(folder)
    raise ValueError(f"expected {' or '.join(kinds)} in {folder}, got neither; was a group model saved there?")
