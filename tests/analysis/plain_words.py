"""The words of every script, written down plainly: from the name and the category of each character."""

import re
import unicodedata
from functools import cache
from itertools import pairwise

# How the names of characters begin whose words no blank separates.
UNSPACED = (
    *("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TAI ", "NEW TAI LUE ", "AHOM ", "BALINESE ", "JAVANESE "),
    *("CJK UNIFIED ", "CJK COMPATIBILITY IDEOGRAPH", "VERTICAL IDEOGRAPHIC ", "HANGZHOU "),
    *(f"IDEOGRAPHIC {kind}" for kind in ("ANNOTATION", "CLOSING", "ITERATION", "NUMBER")),  # not its tally marks
    *("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "VERTICAL KANA ", "MASU MARK", "BOPOMOFO "),
    *("YI ", "OLD CHINESE ", "TANGUT ", "NUSHU ", "KHITAN ", "HENTAIGANA ", "COMBINING KATAKANA"),
)


@cache
def kind(character: str) -> str:
    """What a character is to a word, from its name and category."""
    name, category = unicodedata.name(character, ""), unicodedata.category(character)
    if "VARIATION SELECTOR" in name or character in "\u0640\u034f" or (category == "Cf" and character != "\u200b"):
        return "ignored"
    if category.startswith("M"):
        return "mark"
    if not re.match(r"\w", character):
        return "break"
    is_tangut = 0x17000 <= ord(character) < 0x18D80  # Python 3.11 has no names for these; to the end of the supplement
    return "unspaced" if (is_tangut or name.startswith(UNSPACED)) and not character.isdecimal() else "word"


def runs_of(text: str) -> list[tuple[str, list[str]]]:
    """Runs of characters of one kind in lower case, each character with its marks; what breaks a word is a run."""
    runs: list[tuple[str, list[str]]] = []
    last = "break"
    for character in text.lower():
        now = kind(character)
        if now in ("mark", "ignored"):
            if last != "break" and now == "mark":
                runs[-1][1][-1] += character
            continue
        if now != last or not runs:
            runs.append((now, []))
        runs[-1][1].append(character)
        last = now
    return runs


# Vowels of Thai and Lao that are written before and after their consonant.
BEFORE, AFTER = frozenset("เแโใไເແໂໃໄ"), frozenset("ะาำๅະາຳ")


def with_vowels(characters: list[str]) -> list[str]:
    """Characters of a run, each with its vowels in Thai and Lao."""
    units: list[str] = []
    is_open = False
    for character in characters:
        if is_open or (units and character[0] in AFTER):
            units[-1] += character
            is_open = False
        else:
            units.append(character)
            is_open = character[0] in BEFORE
    return units


def in_words(text: str) -> list[str]:
    """The terms of a text."""
    terms: list[str] = []
    for of_kind, characters in runs_of(text):
        if of_kind == "word":
            terms += ["".join(characters)] if len("".join(characters)) > 1 else []
        elif of_kind == "unspaced":
            units = with_vowels(characters)
            terms += ["".join(pair) for pair in pairwise(units)] if len(units) > 1 else units
    return terms
