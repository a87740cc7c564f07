"""Texts that differ in one letter, as by a typing error.

In a text of fewer than 29 words, one changed word already changes more than a fifth of the word trigrams. Word trigrams
cannot tell a typing error from another word. Character trigrams can.
"""

import unicodedata

MIN_LETTERS = 4
"""A shorter word of an answer that differs in one letter counts as another word: "he" and "we", "A" and "B"."""
MIN_LETTERS_OF_PROMPT = 2
"""The same for prompts, whose answers are equal then. A single letter may be a name (`x` and `y`), but a Hangul
syllable counts as two."""
SIGNS = frozenset(",.;:!?'’\"“”„«»")
"""Signs that may differ, like letters. Other signs may be operators: `a - b`."""


def one_letter_similarity(left: str, right: str, answer_at: int = 0) -> float:
    """Jaccard similarity of the character trigrams of two texts that differ in one letter of a word; else 0.

    One letter, blank or sign was added, removed or replaced, in a word without digits that is long enough.

    Args:
        answer_at: where the answer begins in the text with the shorter prompt.

    >>> one_letter_similarity("The colour of the evening sky", "The color of the evening sky")
    0.8275862068965517
    >>> one_letter_similarity("Which is larger, 5 or 3?", "Which is larger, 5 or 8?")
    0
    """
    if left == right or abs(len(left) - len(right)) > 1:
        return 0
    if len(left) < len(right):
        left, right = right, left
    start = _common_start(left, right)
    rest = len(right) - start if len(left) > len(right) else len(right) - start - 1
    if left[len(left) - rest :] != right[len(right) - rest :]:
        return 0
    min_letters = MIN_LETTERS_OF_PROMPT if start < answer_at else MIN_LETTERS
    if not all(_is_word(text, start, len(text) - rest, min_letters) for text in (left, right)):
        return 0
    n_trigrams = max(len(left) - 2, 1)
    lost = min(3, n_trigrams)
    gained = lost if len(left) == len(right) else lost - 1
    return (n_trigrams - lost) / (n_trigrams + gained)


def _common_start(left: str, right: str) -> int:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low


def _is_word(text: str, start: int, stop: int, min_letters: int) -> bool:
    """Whether `text[start:stop]`, at most one character, belongs to a word of at least `min_letters`."""
    if not all(_is_letter(character) or character.isspace() or character in SIGNS for character in text[start:stop]):
        return False
    first, last = start, stop
    while first > 0 and _is_letter(text[first - 1]):
        first -= 1
    while last < len(text) and _is_letter(text[last]):
        last += 1
    beside = text[first - 1 : first] + text[last : last + 1]
    n_letters = sum(2 if "가" <= character <= "힣" else 1 for character in text[first:last])
    return n_letters >= min_letters and not any(character.isalnum() for character in beside)


def _is_letter(character: str) -> bool:
    return character.isalpha() or unicodedata.category(character)[0] == "M"
