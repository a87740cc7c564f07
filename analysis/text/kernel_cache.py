"""Numba finds a cached kernel by the date of its own file. A kernel that reads another file's constants, or has its
functions inlined, would keep their old form. So the sources as a whole decide."""

from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def digest_of_sources(folder: Path = FOLDER) -> str:
    """Hexadecimal digest of all modules that kernels of text come from."""
    return sha256(b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()[:16]


def drop_stale_kernels(folder: Path = FOLDER) -> None:
    """Delete compiled kernels beside these modules if they were compiled from other sources."""
    mark = folder / "__pycache__" / "kernels.digest"
    with suppress(OSError):  # a folder that cannot be written holds no kernels
        if not mark.exists() or mark.read_text() != digest_of_sources(folder):
            for compiled in folder.rglob("*.nb[ic]"):
                compiled.unlink(missing_ok=True)
            mark.parent.mkdir(exist_ok=True)
            mark.write_text(digest_of_sources(folder))
