"""Opens text files; their first bytes give the encoding."""

import codecs
import io
import re
from pathlib import Path
from typing import TextIO

from analysis.sources.formats.compression import COMPRESSIONS, open_bytes
from analysis.sources.records import SettingError, SourceError

MARKS = (  # longer marks first, because UTF-32's mark begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
PARQUET = "a Parquet file without the suffix .parquet"
OTHERS = (
    (b"PK\x03\x04", "a zip archive or an Excel file"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"PAR1", PARQUET),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF-", "a PDF file"),
    (b"Rar!", "a RAR archive"),
    (b"<?xml", "an XML file"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file itself)"),
)
SAMPLE_BYTES = 4_096
NAME_BYTES = 16
"""The beginning of the first name of a column or field, which is mostly ASCII even if the texts are not."""
CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that texts do not have; ESC is part of some encodings."""


def open_text(path: Path, encoding: str | None = None, newline: str | None = None) -> TextIO:
    """Open a text file. Bytes that are invalid in its encoding become U+FFFD.

    Args:
        path: file, which may be compressed, see `analysis.sources.formats.compression`.
        encoding: name of a Python encoding. None takes it from the byte order mark, else UTF-8.

    Raises:
        SourceError: the encoding is unknown, the file is UTF-16 without a byte order mark, or it is packed otherwise.
    """
    with open_bytes(path) as file:
        start = file.read(SAMPLE_BYTES)
    twice = ((magic, f"compressed twice, with {name}") for magic, name in COMPRESSIONS)
    if kind := _kind(start, (*OTHERS, *twice)):
        packed = ", ".join(name for _, name in COMPRESSIONS)
        raise SourceError(
            f"the file is {kind}; expected text, also packed with {packed}. Unpack it first, or convert it"
        )
    chosen = _encoding(start, encoding)
    return io.TextIOWrapper(open_bytes(path), encoding=chosen, errors="replace", newline=newline)


def check_encoding(name: str) -> str:
    """Python's own name of an encoding of texts.

    Raises:
        SourceError: Python has no such encoding, or it is not for texts (`base64`).
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise SourceError(f"encoding: got {name!r}, expected a name that Python knows, such as latin-1") from error


def other_kind(path: Path) -> str:
    """What a file is, if it is of a kind that cannot be read; else ""."""
    with path.open("rb") as file:
        return _kind(file.read(SAMPLE_BYTES), (*OTHERS, *COMPRESSIONS))


def _kind(start: bytes, kinds: tuple[tuple[bytes, str], ...]) -> str:
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    return next((name for magic, name in kinds if start.startswith(magic)), "")


def _encoding(start: bytes, named: str | None) -> str:
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if named is not None:
        return _checked(check_encoding(named), marked, start)
    if marked is not None:
        return marked
    for part in (start, start[:NAME_BYTES]):
        if CONTROLS.search(part.replace(b"\0", b"")):
            continue
        is_wide = [part[offset::2].count(0) > len(part) // 4 > 0 for offset in (0, 1)]
        if all(is_wide):
            raise SourceError(
                "the file begins with NUL bytes, as binary files do, and files that a crash cut off; expected text"
            )
        if any(is_wide):
            name = "utf-16-be" if is_wide[0] else "utf-16-le"
            raise SettingError(f"the file looks like UTF-16 without a mark; name it: encoding: {name}, or write UTF-8")
    # Texts may have control characters, but not two in the first name of a field.
    in_name, in_all = (len(CONTROLS.findall(part)) for part in (start[:NAME_BYTES], start))
    if in_name > 1 or (in_all > max(1, len(start) // 20) and _as_utf8(start) is None):
        raise SourceError("the file begins with control characters, as binary files do; expected text. Convert it")
    return "utf-8-sig"


def _checked(named: str, marked: str | None, start: bytes) -> str:
    """The encoding to use where the user named one, which must not contradict the bytes."""
    if marked is not None and not named.startswith(marked.removesuffix("-sig")):
        raise SourceError(f"the file's byte order mark says {marked}, but encoding names {named}; leave it out")
    if marked is not None:
        return marked
    if named in ("utf-16", "utf-32"):
        raise SourceError(
            f"the file has no byte order mark; expected one with encoding {named}. Name {named}-le or {named}-be; or "
            "leave encoding out, if the file is UTF-8"
        )
    if not named.startswith("utf") and _is_utf8(start):
        raise SourceError(f"encoding names {named}, but the file is UTF-8: leave encoding out")
    return "cp1252" if named == "iso8859-1" else named  # as browsers do: files named Latin-1 have quotes of Windows


def _is_utf8(start: bytes) -> bool:
    """Whether bytes are certainly UTF-8. A few characters of another encoding may look so by chance."""
    text = _as_utf8(start)
    return text is not None and sum(not character.isascii() for character in text) > 3


def _as_utf8(start: bytes) -> str | None:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) < SAMPLE_BYTES)
    except UnicodeDecodeError:
        return None
