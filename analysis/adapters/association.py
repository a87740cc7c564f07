"""Do gates follow a grouping of the documents? Mutual information and explained variance, against permuted groups."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.adapters.permutation import p_value

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModuleAssociation:
    """How strongly the gates depend on the groups, in one module or as the mean over modules.

    Attributes:
        nmi: normalised mutual information between a document's strongest expert and its group, 0 to 1.
        variance_explained: share of the gates' variance over documents that lies between groups, 0 to 1.
        variance_null: mean of `variance_explained` for permuted groups.
        p_value: one-sided p-value of `variance_explained`.
    """

    nmi: float
    nmi_null: float
    variance_explained: float
    variance_null: float
    p_value: float

    @property
    def explained_beyond_chance(self) -> float:
        """Explained variance, rescaled so that 0 is chance and 1 is all of the variance."""
        return (self.variance_explained - self.variance_null) / max(1 - self.variance_null, 1e-12)


@dataclass(frozen=True)
class Association(ModuleAssociation):
    """The mean over modules; `modules` holds each of them."""

    modules: tuple[ModuleAssociation, ...] = ()


def gate_association(
    gates: NDArray[np.floating], labels: NDArray[np.integer], *, n_permutations: int = 499, random_state: int = 0
) -> Association:
    """Measure how strongly gates depend on groups.

    Explained variance is the main measure: gates may lean towards a group's expert without making it the strongest.

    Args:
        gates: [n_documents, n_modules, N].
        labels: [n_documents], group numbers from 0 to n_groups - 1.

    Raises:
        ValueError: the number of labels differs from the number of documents, or there is only one group.
    """
    n, n_modules, n_experts = gates.shape
    if len(labels) != n or labels.max(initial=0) == 0:
        raise ValueError(f"labels: expected {n} labels of at least two groups, got {len(labels)} labels")
    groups = np.eye(int(labels.max()) + 1)[labels]
    strongest = np.eye(n_experts)[gates.argmax(axis=2)].reshape(n, -1)
    centered = (gates - gates.mean(axis=0, dtype=np.float64)).reshape(n, -1)
    totals = np.square(centered).sum(axis=0).reshape(n_modules, n_experts).sum(axis=1)

    def measure(one_hot: Floats) -> tuple[Floats, Floats]:
        joint = (strongest.T @ one_hot).reshape(n_modules, n_experts, -1) / n
        means = (centered.T @ one_hot).reshape(n_modules, n_experts, -1)
        between = (np.square(means) / one_hot.sum(axis=0)).sum(axis=(1, 2))
        return _nmi(joint), np.divide(between, totals, out=np.zeros(n_modules), where=totals > 1e-12)

    generator = np.random.default_rng(random_state)
    nmi, explained = measure(groups)
    null = [measure(groups[generator.permutation(n)]) for _ in range(n_permutations)]
    null_nmi, null_explained = np.array([x for x, _ in null]), np.array([x for _, x in null])
    modules = tuple(
        _summary(nmi[m : m + 1], explained[m : m + 1], null_nmi[:, m : m + 1], null_explained[:, m : m + 1])
        for m in range(n_modules)
    )
    return Association(**vars(_summary(nmi, explained, null_nmi, null_explained)), modules=modules)


def _summary(nmi: Floats, explained: Floats, null_nmi: Floats, null_explained: Floats) -> ModuleAssociation:
    return ModuleAssociation(
        nmi=float(nmi.mean()),
        nmi_null=float(null_nmi.mean()),
        variance_explained=float(explained.mean()),
        variance_null=float(null_explained.mean()),
        p_value=p_value(float(explained.mean()), null_explained.mean(axis=1)),
    )


def _nmi(joint: Floats) -> Floats:
    """Normalised mutual information [n_modules], with the arithmetic mean of the entropies.

    Args:
        joint: [n_modules, N, n_groups], joint distributions.
    """
    experts, groups = joint.sum(axis=2), joint.sum(axis=1)
    entropies = _entropy(experts) + _entropy(groups)
    information = entropies - _entropy(joint.reshape(len(joint), -1))
    return np.divide(2 * information, entropies, out=np.zeros(len(joint)), where=entropies > 1e-12)


def _entropy(shares: Floats) -> Floats:
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=-1))
