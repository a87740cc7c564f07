"""The list of an artifact's files with sizes and hashes, and syncing them to disk so that they survive a crash."""

import functools
import os
from pathlib import Path

import xxhash

Manifest = dict[str, tuple[int, str]]
"""Relative path of each file -> its size in bytes and its hash (XXH3, 128 bits)."""

_BLOCK = 1 << 20


def file_hash(path: Path) -> str:
    """XXH3 hash of a file's bytes, 32 hex digits. It detects damage and takes a tenth of the time of reading a disk."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def folder_hashes(folder: Path) -> dict[str, str]:
    """Path in the folder -> hash, of all its files. A file is read again only if its size or times have changed."""
    return {name: _hash_at(path, *_stamp(path)) for name, path in _files_in(folder)}


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    """Path in the folder and path, of all its files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in paths]


def _stamp(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@functools.lru_cache(maxsize=10_000)
def _hash_at(path: Path, size: int, changed: int, touched: int, inode: int) -> str:
    return file_hash(path)


def write_manifest(folder: Path, *, without: str) -> Manifest:
    """Sizes and hashes of the files in a folder, in the order of their names."""
    return {name: (path.stat().st_size, file_hash(path)) for name, path in _files_in(folder) if name != without}


def damage(folder: Path, manifest: Manifest, *, hashes: bool) -> str | None:
    """A sentence about the first damaged file of a folder, or None.

    Args:
        hashes: whether to read and hash every file instead of checking only sizes.
    """
    for name, (size, expected) in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: expected a file of {size:,} bytes, found none"
        if path.stat().st_size != size:
            return f"{path}: expected {size:,} bytes, found {path.stat().st_size:,}"
        if hashes and (found := file_hash(path)) != expected:
            return f"{path}: expected the hash {expected}, found {found}"
    return None


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything in it to disk."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
