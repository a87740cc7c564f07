"""Real documents resampled and perturbed, for corpora larger than the real ones."""

import random
from collections.abc import Sequence

MAX_LENGTH = 1500
SHARE_OF_WORDS = 10  # one word in ten is replaced


def perturbed(text: str, words: Sequence[str], rng: random.Random) -> str:
    """The text with a tenth of its words replaced by words of other texts, at most `MAX_LENGTH` characters."""
    pieces = text.split(" ")
    for _ in range(max(1, len(pieces) // SHARE_OF_WORDS)):
        pieces[int(rng.random() * len(pieces))] = words[int(rng.random() * len(words))]
    return " ".join(pieces)[:MAX_LENGTH]
