"""Opens files that may be compressed. The first bytes tell, not the suffix."""

import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

COMPRESSIONS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bz2"),
    (b"\xfd7zX", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
CHUNK_BYTES = 1 << 16


def open_bytes(path: Path) -> io.BufferedReader:
    """Open a file; its bytes are decompressed if they begin as one of `COMPRESSIONS`."""
    with path.open("rb") as file:
        start = _start(file)
    compression = next((name for magic, name in COMPRESSIONS if start.startswith(magic)), None)
    if compression is None:
        return path.open("rb")
    if compression == "xz":
        return io.BufferedReader(_Chunks(_xz_chunks(path)))
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


def _start(file: BinaryIO) -> bytes:
    """The first bytes, behind the frames that zstd and lz4 tell readers to skip; pzstd begins files with one."""
    start = file.read(8)
    while len(start) == 8 and start[0] >> 4 == 5 and start[1:4] == b"\x2a\x4d\x18":
        file.seek(int.from_bytes(start[4:], "little"), io.SEEK_CUR)
        start = file.read(8)
    return start


def _xz_chunks(path: Path) -> Iterator[bytes]:
    """The content of all streams of an xz file. Python's own reader ends without an error at padding between them.

    Raises:
        EOFError: the file is cut off.
        LZMAError: it is damaged, or goes on with something else.
    """
    with path.open("rb") as file:
        data = file.read(CHUNK_BYTES)
        while data:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            while not decoder.eof:
                if decoder.needs_input and not data and not (data := file.read(CHUNK_BYTES)):
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                yield decoder.decompress(data, CHUNK_BYTES)
                data = b""
            data = decoder.unused_data.lstrip(b"\0")
            while not data and (chunk := file.read(CHUNK_BYTES)):
                data = chunk.lstrip(b"\0")


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with the next bytes; 0 at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n
