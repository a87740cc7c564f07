"""Compiled kernels are used as long as no source of theirs has changed."""

from pathlib import Path

from analysis.text.kernel_cache import digest_of_sources, drop_stale_kernels


def test_kernels_go_when_a_source_that_they_inline_changes(tmp_path: Path) -> None:
    compiled = tmp_path / "terms" / "__pycache__" / "_terms.read-1.py311.nbi"
    compiled.parent.mkdir(parents=True)
    source = tmp_path / "_tokens.py"
    source.write_text("WIDTH = 1\n")
    drop_stale_kernels(tmp_path)
    compiled.touch()
    drop_stale_kernels(tmp_path)
    assert compiled.exists()
    source.write_text("WIDTH = 2\n")
    digest_of_sources.cache_clear()  # another process
    drop_stale_kernels(tmp_path)
    assert not compiled.exists()
