"""Opens text files; their first bytes give encoding and compression."""

import codecs
import io
from pathlib import Path
from typing import TextIO

from analysis.sources.records import SourceError

MARKS = (  # longer marks first, because UTF-32's mark begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bz2"))
OTHERS = ((b"PK\x03\x04", "a zip archive"), (b"\xfd7zXZ", "compressed with xz"), (b"7z\xbc\xaf", "a 7z archive"))
SAMPLE_BYTES = 4_096


def open_text(path: Path, encoding: str | None = None, newline: str | None = None) -> TextIO:
    """Open a text file. Bytes that are invalid in its encoding become U+FFFD.

    Args:
        path: file, which may be compressed with gzip, zstd or bzip2; its suffix does not matter.
        encoding: name of a Python encoding. None takes it from the byte order mark, else UTF-8.

    Raises:
        SourceError: the encoding is unknown, the file is UTF-16 without a byte order mark, or it is packed otherwise.
    """
    with _bytes(path) as file:
        start = file.read(SAMPLE_BYTES)
    for magic, name in (*OTHERS, *((magic, f"compressed twice, with {name}") for magic, name in COMPRESSIONS)):
        if start.startswith(magic):
            raise SourceError(f"the file is {name}; expected text, or text in gzip, zstd or bzip2. Unpack it first")
    chosen = _encoding(start, encoding)
    return io.TextIOWrapper(_bytes(path), encoding=chosen, errors="replace", newline=newline)


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


def _bytes(path: Path) -> io.BufferedReader:
    with path.open("rb") as file:
        start = file.read(4)
    compression = next((name for magic, name in COMPRESSIONS if start.startswith(magic)), None)
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


def _encoding(start: bytes, named: str | None) -> str:
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if named is not None:
        plain = check_encoding(named)
        return "utf-8-sig" if plain == "utf-8" else plain
    if marked is not None:
        return marked
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) > 3 and start[offset::2].count(0) > len(start) // 4:
            raise SourceError(f"the file looks like UTF-16 without a mark; name it: encoding: {name}, or write UTF-8")
    return "utf-8-sig"
