"""Real documents resampled and perturbed, for corpora larger than the real ones."""

import random
from collections.abc import Sequence

MAX_LENGTH = 1500


def perturbed(text: str, words: Sequence[str], rng: random.Random, one_in: int = 10) -> str:
    """The text with one word in `one_in` replaced by words of other texts, at most `MAX_LENGTH` characters."""
    pieces = text.split(" ")
    for _ in range(max(1, len(pieces) // one_in)):
        pieces[int(rng.random() * len(pieces))] = words[int(rng.random() * len(words))]
    return " ".join(pieces)[:MAX_LENGTH]
