"""The meaning of split names: which publishers' names mean train, and which mean test."""

import re
from collections.abc import Mapping

import polars as pl

from analysis.sources.records import SourceError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "valid", "val", "dev", "development", "eval", "evaluation", "heldout")
SIDES = ("train", "test")
HOW = "Say which side a name means, for example splits: {extra: train, final: test}"


def side_of(name: str, splits: Mapping[str, str]) -> str | None:
    """The side of a split name: `train`, `test`, or None for an unknown name.

    Case and surrounding spaces are ignored. So are additions after `_`, `-`, `.`, `[` or a space, unless they name the
    other side: `test_sft`, `Validation-matched`.

    Args:
        splits: additional names and their meaning, from the user.
    """
    plain = name.strip().casefold()
    own = {key.strip().casefold(): side for key, side in splits.items()}
    if plain in own:
        return own[plain]
    plain = re.sub("h[eo]ld[_ -]?out", "heldout", plain)
    words = re.split(r"(?:set)?\d*(?:[\s_.\[-]+|$)", plain)  # val2017, testset
    found = [word in TRAIN_NAMES for word in words if word in TRAIN_NAMES + TEST_NAMES]
    if not found or words[0] not in TRAIN_NAMES + TEST_NAMES or len(set(found)) > 1:
        return None
    return "train" if found[0] else "test"


def side_of_name(stem: str) -> str | None:
    """The side that the name of a file says, at its beginning or its end: `test_a`, `gsm8k_test`."""
    return side_of(stem, {}) or side_of(re.split(r"[-_.]", stem)[-1], {})


def check_sides(splits: Mapping[str, str]) -> None:
    """Refuse mappings to values other than `train` and `test`."""
    wrong = {name: side for name, side in splits.items() if side not in SIDES}
    if wrong:
        raise SourceError(f"splits: expected each name to mean train or test, got {wrong}")


def named_side(name: str, splits: Mapping[str, str]) -> str:
    """`side_of` for a name in a configuration; an unknown name is refused."""
    side = side_of(name, splits)
    if side is None:
        raise SourceError(
            f"split: got {name!r}, expected a common name such as {', '.join(TRAIN_NAMES + TEST_NAMES)}. {HOW}"
        )
    return side


def sides(names: pl.Series, splits: Mapping[str, str]) -> tuple[pl.Series, list[str]]:
    """The side of each row (null if the row has no name), and the unknown names."""
    meant = {name: side_of(name, splits) for name in names.unique().drop_nulls() if name.strip()}
    unknown = sorted(name for name, side in meant.items() if side is None)
    known = {name: side for name, side in meant.items() if side is not None}
    return names.replace_strict(known, default=None, return_dtype=pl.String), unknown
