"""Errors that mean a full disk, whichever library notices it."""

import errno

import pytest

from hydralora.training.outputs.checkpoints import is_disk_full


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 8384 vs 8278"),  # torch 2.13
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_errors_of_a_full_disk(error: Exception) -> None:
    assert is_disk_full(error)


def test_other_errors_are_not_of_the_disk() -> None:
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
