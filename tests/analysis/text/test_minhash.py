"""Bands of minima find similar sets as often as theory says, and are those of a slow twin."""

import numpy as np

from analysis.text.minhash import band_hashes
from analysis.text.shingles import WINDOW_PRIME, Rows

N_PERMUTATIONS, LENGTH = 32, 4


def hashes(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, n, np.uint64)


def test_bands_equal_a_slow_twin() -> None:
    sets = [hashes(5), hashes(0), hashes(1, seed=1)]
    found = band_hashes(Rows(np.concatenate(sets), np.array([0, 5, 5, 6])), N_PERMUTATIONS, LENGTH, seed=3)
    factors, terms = (
        np.random.Generator(np.random.PCG64(3)).integers(0, 1 << 64, (2, N_PERMUTATIONS), np.uint64).tolist()
    )
    for bands, values in zip(found.tolist(), sets, strict=True):
        minima = [
            min((((a * (x >> 32) + b) >> 32) % 2**32 for x in values.tolist()), default=2**32 - 1)
            for a, b in zip(factors, terms, strict=True)
        ]
        for band, key in enumerate(bands):
            expected = 0
            for minimum in minima[band * LENGTH : (band + 1) * LENGTH]:
                expected = (expected * int(WINDOW_PRIME) + minimum) % 2**64
            assert key == expected


def test_similar_sets_share_a_band_as_often_as_theory_says() -> None:
    pairs, common, own = 1_000, 60, 20  # a similarity of 60 / 100
    values = hashes(pairs * 2 * (common + own)).reshape(pairs, 2, common + own)
    values[:, 1, :common] = values[:, 0, :common]
    offsets = np.arange(0, values.size + 1, common + own)
    bands = band_hashes(Rows(values.reshape(-1), offsets), N_PERMUTATIONS, LENGTH, seed=0).reshape(pairs, 2, -1)
    expected = 1 - (1 - 0.6**LENGTH) ** (N_PERMUTATIONS // LENGTH)
    assert abs((bands[:, 0] == bands[:, 1]).any(axis=1).mean() - expected) < 0.06
