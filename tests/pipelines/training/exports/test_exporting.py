"""Folders of exports, and what fixed gates cost."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.exports.exporting import (
    OTHERS,
    RESERVED,
    folder_names,
)


def test_folders_are_names_that_servers_take() -> None:
    domains = ["packages/code", "packages code", "GSM8K", "数学", OTHERS]
    assert list(folder_names(domains).values()) == ["packages-code", "packages-code-1", "gsm8k", "domain", "others"]
    named = {"0": "Loan contracts", "1": "Others"}  # of renamed clusters
    assert list(folder_names(["0", "1", "2", OTHERS], named).values()) == ["loan-contracts", "others-1", "2", "others"]


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        (["a-2", "a", "A"], ["a-2", "a", "a-1"]),
        (["a", "A", "a-1"], ["a", "a-1", "a-1-1"]),
        (["group_model", "GROUP_MODEL", "nul"], ["group_model-1", "group_model-2", "nul-1"]),
        (["others", "(others)"], ["others-1", "others"]),
        (["../..", "/", "x" * 300], ["domain", "domain-1", "x" * 64]),
    ],
)
def test_no_two_domains_share_a_folder(domains: list[str], expected: list[str]) -> None:
    assert list(folder_names(domains).values()) == expected


@given(st.lists(st.text("aAbB-_1 2é.", max_size=6) | st.text() | st.sampled_from(["group_model", OTHERS]), unique=True))
def test_folders_are_unique_whatever_the_names(domains: list[str]) -> None:
    folders = folder_names(domains)
    assert list(folders) == domains
    assert len({name.casefold() for name in folders.values()} - RESERVED) == len(domains)
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) and len(name) < 100 for name in folders.values())


def test_a_domain_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distinct domains, got \['a'\]"):
        folder_names(["a", "b", "a"])
