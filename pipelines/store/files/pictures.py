"""Marks PNG files with what they were made from, in a text chunk that image viewers show among the properties."""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND"


def mark_png(path: Path, key: str, value: Mapping[str, Any]) -> None:
    """Add a text chunk with `value` as JSON to a PNG file, in place. Other files, and marked PNGs, stay as they are.

    Args:
        key: key of the chunk, ASCII.
    """
    content = path.read_bytes()
    text = b"tEXt" + key.encode("ascii") + b"\x00"
    end = content.rfind(_END)
    if not content.startswith(_SIGNATURE) or end < 0 or text in content:
        return
    data = text + json.dumps(value, sort_keys=True).encode("ascii")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(content[:end] + chunk + content[end:])
