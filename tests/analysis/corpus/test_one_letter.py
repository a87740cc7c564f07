"""One letter of difference: which texts that is, and how similar they are, against sets of character trigrams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.corpus.one_letter import one_letter_similarity


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("the granary of wheat", "the granry of wheat"),
        ("the storage of grain", "the storaage of grain"),
        ("the storage of grain", "the storake of grain"),
        ("the storage of grain", "thestorage of grain"),
        ("wheat, rye and oats", "wheat rye and oats"),
        ("ağaçlar büyüyor", "ağaçlr büyüyor"),
        ("हिन्दी में लेखकों", "हिन्दी में लखकों"),
        ("storage", "storages"),
        ("storage", "ttorage"),
    ],
)
def test_a_letter_of_a_word(left: str, right: str) -> None:
    assert one_letter_similarity(left, right) == one_letter_similarity(right, left) > 0


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("the same", "the same"),
        ("add 12 and 7 apples", "add 13 and 7 apples"),
        ("take room12 first", "take room13 first"),
        ("take roomy1 first", "take room1 first"),
        ("cost - price", "cost + price"),
        ("cost-price", "cost+price"),
        ("did he go", "did we go"),
        ("the answer is A", "the answer is B"),
        ("the storage of grain", "the stoarge of grain"),
        ("the storage of grain", "the storage of"),
        ("", "a"),
    ],
)
def test_other_differences(left: str, right: str) -> None:
    assert one_letter_similarity(left, right) == 0


@pytest.mark.parametrize(
    ("left", "right", "in_prompts", "in_answers"),
    [
        ("die Last ist gross", "die Last it gross", True, False),
        ("«wheat» and rye", "«wheat and rye", True, True),
        ("곡식 을 본다", "곡식 은 본다", True, False),
        ("let x be the sum", "let y be the sum", False, False),
        ("take room12 first", "take room13 first", False, False),
    ],
)
def test_a_word_of_a_prompt_may_be_shorter(left: str, right: str, in_prompts: bool, in_answers: bool) -> None:
    assert (one_letter_similarity(f"{left}\nyes", f"{right}\nyes", 1 + min(len(left), len(right))) > 0) == in_prompts
    assert (one_letter_similarity(f"yes\n{left}", f"yes\n{right}", 4) > 0) == in_answers


@given(st.permutations("abcdefghijklmnopqrstuvwxyz"), st.integers(3, 22), st.sampled_from(["", "é"]))
def test_similarity_is_that_of_character_trigrams(letters: list[str], place: int, instead: str) -> None:
    left = "".join(letters)
    right = left[:place] + instead + left[place + 1 :]
    first, second = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (left, right))
    assert one_letter_similarity(left, right) == len(first & second) / len(first | second)
