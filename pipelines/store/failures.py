"""Turns expected errors of an asset into one sentence; bugs keep their stack trace."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from pipelines.store.code.source_files import PROJECT

_ADVICE = {
    "PermissionError": "Give this user access to it, or choose another place.",
    "FileNotFoundError": "It was there when the run began, or should have been: was it moved or deleted?",
    "NotADirectoryError": "Remove what stands in its place, and run again.",
    "IsADirectoryError": "Remove what stands in its place, and run again.",
    "FileExistsError": "Remove what stands in its place (a file, or a link that leads nowhere), and run again.",
}
_READ_ONLY = "Set resources.store.config.directory to a folder that can be written to."


@contextmanager
def clear_failures(asset: str) -> Iterator[None]:
    """Turn expected errors into `dagster.Failure` with their sentence, without a stack trace.

    Errors of the operating system, of too little memory and of too deep nesting get a sentence as well, and keep their
    stack trace for the UI. All other exceptions are bugs and pass as they are.

    Args:
        asset: name of the asset, with which the sentence begins.
    """
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        is_ours = _is_of_project(type(error).__module__)
        trace = "".join(traceback.format_exception(error))
        metadata = {} if is_ours else {"stack_trace": dg.MetadataValue.md(f"```\n{trace}\n```")}
        text = sentence if sentence.startswith(f"{asset}: ") else f"{asset}: {sentence}"
        raise dg.Failure(text, metadata, allow_retries=False) from None


def is_refusal(error: BaseException) -> bool:
    """Whether the text of the error says what is wrong and what to do.

    It does if the error has a class of this project, or is a ValueError that this project's code raised itself.
    """
    if _is_of_project(type(error).__module__):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return type(error) is ValueError and _is_of_project(frame.f_globals.get("__name__", ""))


def sentence_of(error: BaseException) -> str | None:
    """The error as a sentence; None for a bug."""
    if is_refusal(error):
        return str(error)
    if isinstance(error, OSError):
        kind, text = type(error).__name__, error.strerror or str(error)
        where = f"{error.filename}: " if error.filename else ""
        advice = _READ_ONLY if error.errno == errno.EROFS else _ADVICE.get(kind, "The web UI has the stack trace.")
        return f"{where}{text} ({kind}). {advice}"
    if isinstance(error, MemoryError):
        return f"too little memory. {error}".rstrip() + " Take fewer documents, or a machine with more."
    if isinstance(error, RecursionError):
        return f"something is nested too deeply ({error}). Look for a document with thousands of brackets."
    return None


def _is_of_project(module: str) -> bool:
    return module.partition(".")[0] in PROJECT
