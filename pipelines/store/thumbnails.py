"""Small versions of figures for the web UI."""

from typing import TYPE_CHECKING

from pipelines.store.assets import THUMBNAIL
from pipelines.store.files.draft import Draft

if TYPE_CHECKING:
    from analysis.figures import Picture


def write_thumbnail(draft: Draft, picture: "Picture") -> None:
    """Save a small PNG of a figure for the preview of the asset."""
    from analysis.figures import thumbnail

    draft.write_bytes(THUMBNAIL, thumbnail(picture.figure))
