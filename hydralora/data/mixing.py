"""How often a run reads each source: shares by size, temperature, own weights and a cap, and an order with them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np


def source_shares(
    sizes: Mapping[str, int], *, temperature: float = 1.0, weights: Mapping[str, float] | None = None, cap: float = 1.0
) -> dict[str, float]:
    """The share of each source among the documents that a run reads; they sum to 1.

    A share is proportional to weight * size ** (1 / temperature), the sampling of multilingual models (arXiv
    1907.05019, section 3). What a source would have above the cap goes to the others in proportion.

    Args:
        sizes: Source -> number of documents.
        temperature: 1 samples in proportion to the sizes; a larger one evens them out.
        weights: Source -> factor on its share; 1 if not named, and 0 leaves the source out.
        cap: Largest share of one source.

    Raises:
        ValueError: A weight names no source; all sources have weight 0; or too few have one for the cap.
    """
    weights = weights or {}
    if unknown := sorted(weights.keys() - sizes.keys()):
        raise ValueError(f"mixing_weights: expected sources among {', '.join(sorted(sizes))}, got {', '.join(unknown)}")
    names = sorted(sizes)
    raw = np.array([weights.get(name, 1.0) * sizes[name] ** (1 / temperature) for name in names])
    positive = int((raw > 0).sum())
    if positive * cap < 1 - 1e-9:
        raise ValueError(
            f"mixing_cap: expected at least 1 / {positive} for {positive} sources with a weight, got {cap}"
            if positive
            else "mixing_weights: expected a weight of more than 0 for a source, got none"
        )
    shares, capped = raw / raw.sum(), np.zeros(len(raw), dtype=bool)
    while (over := ~capped & (shares > cap * (1 + 1e-12))).any():
        capped |= over
        shares[capped] = cap
        rest = np.where(capped, 0, raw)
        if rest.sum() > 0:
            shares[~capped] = rest[~capped] / rest.sum() * max(0.0, 1 - cap * capped.sum())
    return dict(zip(names, (shares / shares.sum()).tolist(), strict=True))


def mixed_order(sources: Sequence[str], shares: Mapping[str, float], seed: int) -> Iterator[int]:
    """Indices of documents without end: a source drawn by its share, and the next document of that source.

    The documents of a source come in a new random order in each pass over it.

    Raises:
        ValueError: A source has a share and no documents.
    """
    names = sorted(shares)
    there = set(sources)
    if empty := sorted(name for name in names if shares[name] > 0 and name not in there):
        raise ValueError(f"Expected documents of each source with a share, got none of {', '.join(empty)}")
    of_source = np.asarray(sources)
    queues = [_passes(np.flatnonzero(of_source == name), seed, place) for place, name in enumerate(names)]
    rng = np.random.default_rng([seed, len(names)])
    probabilities = np.array([shares[name] for name in names])
    while True:
        for place in rng.choice(len(names), size=1024, p=probabilities):
            yield next(queues[place])


def _passes(documents: np.ndarray, seed: int, place: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch, place]).permutation(documents).tolist()
        epoch += 1
