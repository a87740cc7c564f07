"""What mkdocs needs beside the pages: the README as the start page, and links that leave the folder `docs`."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root -> pages of the site."""

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that stand in the repository's root."""
    for name, page in PAGES.items():
        text = (_root(config) / name).read_text()
        files.append(File.generated(config, page, content=_links(text, "", config).replace('="docs/', '="')))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Rewrite links of a page that leave the site."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return _links(markdown, posixpath.join("docs", posixpath.dirname(page.file.src_uri)), config)


def _links(text: str, folder: str, config: MkDocsConfig) -> str:
    """Links as the site has them: other files of the repository become their path, in code letters.

    Raises:
        ValueError: a link to a file that does not exist.
    """

    def replace(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (_root(config) / path).exists():
            raise ValueError(f"{folder or 'the repository'}: expected a file, got a link to {target}")
        if path in PAGES:
            path = f"docs/{PAGES[path]}"
        elif (_root(config) / path).is_dir() and path.startswith("docs/"):
            path += "/index.md"
        if not path.startswith("docs/"):
            return f"{words} (`{path}`)" if path not in words else words
        here = posixpath.relpath(path, folder or "docs")
        return f"[{words}]({here}{anchor})"

    text = re.sub(r"!\[([^\]]*)\]\(docs/", r"![\1](", text) if not folder else text
    return LINK.sub(replace, text)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent
