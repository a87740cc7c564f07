"""The role of each Unicode character in words: the table that all word counting uses.

Three kinds of scripts need three rules (the first two are those of Unicode Standard Annex 29):

- Most scripts put spaces between words. A word is a run of letters, digits and underscores.
- Vowel signs, points and accents that are characters of their own (Indic, Thai, Hebrew, Arabic, decomposed Latin)
  belong to the letter before them. Invisible and stretching characters (soft hyphen, joiners, tatweel) are ignored.
- Chinese, Japanese, Thai, Lao, Khmer, Burmese and some more are written without spaces. Their runs are read as
  overlapping pairs of characters, each with its marks (in Thai and Lao with its vowels). A dictionary would find real
  words, but it takes ten times as long and gives no better clusters (docs/results/scripts.md).
"""

import re
import unicodedata
from functools import cache
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

Tokens = Literal["unicode", "scikit-learn"]
"""`unicode`, the rules above; `scikit-learn`, matches of its vectorisers' `(?u)\\b\\w\\w+\\b`. Equal on ASCII."""

CLASS_SHIFT = 24
CODE_POINT = (1 << CLASS_SHIFT) - 1
WORD, MARK, IGNORED, UNSPACED = range(4)

ZERO_WIDTH_SPACE, TATWEEL, GRAPHEME_JOINER = 0x200B, 0x0640, 0x034F
END_OF_LETTERS, LAST_MARK = 0x40000, 0xE01EF
END_OF_DIGITS = 0x11750  # of the scripts without blanks
# First and last code points of the scripts without spaces between words, and of their extensions.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),  # Han iteration mark, closing mark and zero
    (0x3021, 0x31FF),  # Han numerals, Hiragana, Katakana, Bopomofo; not Hangul, see below
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0xA48F),  # Han, Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x11700, 0x1174F),  # Ahom
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana, Nushu
    (0x20000, 0x3FFFF),  # Han
)
_HANGUL_LETTERS = range(0x3131, 0x318F)


def checked_tokens(tokens: str) -> Tokens:
    """Return `tokens` if it is a known kind of tokens.

    Raises:
        ValueError: `tokens` is unknown.
    """
    if tokens not in get_args(Tokens):
        raise ValueError(f"tokens: expected one of {list(get_args(Tokens))}, got {tokens!r}")
    return cast(Tokens, tokens)


@cache
def character_table(tokens: Tokens) -> NDArray[np.int32]:
    """The role of each code point: 0 if it ends a word, else its lower-case form with its class above `CLASS_SHIFT`.

    The classes are `WORD` (part of a word), `MARK` (part of the character before it), `IGNORED` (does not end a word,
    but is not part of it) and `UNSPACED` (a letter of a script without spaces).

    Raises:
        ValueError: `tokens` is unknown.
    """
    checked_tokens(tokens)
    table = np.zeros(0x110000, np.int32)
    for code_point in _positions(r"\w", range(END_OF_LETTERS)):
        lower = chr(code_point).lower()
        table[code_point] = ord(lower) if len(lower) == 1 else code_point
    if tokens == "unicode":
        _add_classes(table)
    return table


@cache
def ignored_characters() -> dict[int, None]:
    """The `IGNORED` code points as a table for `str.translate`."""
    return dict.fromkeys(np.flatnonzero(character_table("unicode") >> CLASS_SHIFT == IGNORED).tolist())


def _add_classes(table: NDArray[np.int32]) -> None:
    for first, last in _UNSPACED:
        letters = table[first : last + 1]
        letters[letters != 0] |= UNSPACED << CLASS_SHIFT
    # Digits of these scripts are word characters, as in other scripts.
    for code_point in (*_positions(r"\d", range(END_OF_DIGITS)), *_HANGUL_LETTERS):
        table[code_point] &= CODE_POINT
    for code_point in (*range(0x80, 0x20000), *range(0xE0000, LAST_MARK + 1)):
        category = unicodedata.category(chr(code_point))
        if category[0] == "M":
            is_selector = "VARIATION SELECTOR" in unicodedata.name(chr(code_point), "")
            table[code_point] = code_point | (IGNORED if is_selector else MARK) << CLASS_SHIFT
        elif category == "Cf" and code_point != ZERO_WIDTH_SPACE:
            table[code_point] = code_point | IGNORED << CLASS_SHIFT
    for code_point in (TATWEEL, GRAPHEME_JOINER):
        table[code_point] = code_point | IGNORED << CLASS_SHIFT


def _positions(pattern: str, code_points: range) -> list[int]:
    """Code points that match a regular expression."""
    return [code_points[match.start()] for match in re.finditer(pattern, "".join(map(chr, code_points)))]
