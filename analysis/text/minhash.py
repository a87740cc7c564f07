"""MinHash (Broder 1997): the share of equal minima of two sets estimates their Jaccard similarity."""

import numba
import numpy as np
from numpy.typing import NDArray

from analysis.text.shingles import WINDOW_PRIME, Rows


def band_hashes(sets: Rows, n_permutations: int, length: int, seed: int) -> NDArray[np.uint64]:
    """A hash of each band of `length` minima: [n, n_permutations / length]. It does not depend on the machine.

    The hash functions are multiply-shift (Dietzfelbinger 1996): (a x + b) >> 32, for the upper 32 bits x of a value.

    Args:
        sets: hashes whose upper 32 bits are uniform; an empty set has the same hashes as every other empty set.
    """
    numbers = np.random.Generator(np.random.PCG64(seed)).integers(0, 1 << 64, (2, n_permutations), np.uint64)
    hashes: NDArray[np.uint64] = _band_hashes(sets.values, sets.offsets, numbers[0], numbers[1], length)
    return hashes


@numba.njit(cache=True)
def _band_hashes(
    values: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    factors: NDArray[np.uint64],
    terms: NDArray[np.uint64],
    length: int,
) -> NDArray[np.uint64]:
    bands = np.zeros((len(offsets) - 1, len(factors) // length), np.uint64)
    minima = np.empty(len(factors), np.uint32)
    for row in range(len(offsets) - 1):
        minima[:] = np.uint32(0xFFFFFFFF)
        for value in values[offsets[row] : offsets[row + 1]]:
            upper = value >> np.uint64(32)
            for i in range(len(factors)):
                minima[i] = min(minima[i], np.uint32((factors[i] * upper + terms[i]) >> np.uint64(32)))
        for band in range(bands.shape[1]):
            for i in range(band * length, (band + 1) * length):
                bands[row, band] = bands[row, band] * WINDOW_PRIME + np.uint64(minima[i])
    return bands
