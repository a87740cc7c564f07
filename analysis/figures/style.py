"""A common style for all figures: colour-blind safe colours, and reproducible bytes."""

import contextlib
import functools
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#B8A900")
"""Okabe and Ito's palette without black and with a darker yellow, so that it is visible on light and dark paper."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#1b1f24"
GRID = "#d3d8de"
HEAT_MAP = "cividis"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names with dollar signs are not formulas
}
LONGEST_NAME = 32
LONGEST_LINE = 80
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@dataclass(frozen=True)
class Picture:
    """A figure with its texts: `caption` is shown below it, `alt` replaces it for screen readers."""

    name: str
    figure: "Figure"
    caption: str
    alt: str


_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Picture]) -> Callable[_Arguments, Picture]:
    """Decorator that draws in the common style and restores matplotlib's settings afterwards."""

    @functools.wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Picture:
        from matplotlib import rc_context

        with rc_context(_RC), _any_script():
            picture = draw(*args, **kwargs)
            _plain_texts(picture.figure)
            # The layout is computed only once: the engine starts from its last result, so every save would differ
            # slightly.
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")
            return picture

    return drawn


def plain_text(name: str, longest: int = LONGEST_NAME) -> str:
    """A name as every figure shows it: one line of at most `longest` printable characters.

    Invisible characters and those that change the direction of text (controls, bidirectional marks) become U+FFFD. A
    long name loses its middle. An empty name gets a placeholder. A leading underscore gets a space before it, because
    matplotlib omits such entries from legends.
    """
    text = "".join("\ufffd" if unicodedata.category(c) in _UNSEEN else c for c in " ".join(name.split()))
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return f" {text}" if text.startswith("_") else text or "(no name)"


def _plain_texts(figure: "Figure") -> None:
    """Apply `plain_text` to all texts of a figure, so that no figure function has to."""
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    def plain_ticks(labels: FuncFormatter) -> FuncFormatter:
        return FuncFormatter(lambda value, place: plain_text(name) if (name := labels(value, place)) else "")

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = axis.get_major_formatter()
            if isinstance(labels, FuncFormatter):  # only ticks with names have this formatter
                axis.set_major_formatter(plain_ticks(labels))
    for text in figure.findobj(Text):
        written = text.get_text()
        if written.strip() and (plain := plain_text(written, LONGEST_LINE)).strip() != written.strip():
            text.set_text(plain)


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    """Allow names in scripts that the font lacks: a PNG shows boxes, an SVG uses the reader's fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support .* natively")
        yield


def subplots(
    n_rows: int = 1, n_columns: int = 1, *, width: float = 6.6, height: float = 2.8, share_y: bool = False
) -> tuple["Figure", list["Axes"]]:
    """An empty figure with sizes in inches, and the list of its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=share_y).flat)


def color(index: int) -> str:
    """The colour of category `index`. Colours repeat after eight, with another marker."""
    return OKABE_ITO[index % len(OKABE_ITO)]


def marker(index: int) -> str:
    """The marker of category `index`, so that colour is never the only distinction."""
    return MARKERS[(index + index // len(OKABE_ITO)) % len(MARKERS)]


def legend_below(figure: "Figure", n_entries: int) -> None:
    """Place the legend below the axes, left aligned, so that a narrow screen shows it without scrolling."""
    figure.legend(loc="outside lower left", ncols=min(n_entries, 4))


def ordered_groups(groups: Iterable[str]) -> list[str]:
    """Distinct groups in order: "all", then numbers in numerical order, then words."""
    return sorted(set(groups), key=lambda g: (g != "all", not g.isdigit(), int(g) if g.isdigit() else 0, g))


def group_name(group_kind: str, group: str) -> str:
    """The name of a group in figures."""
    if group == "all":
        return "all"
    return f"cluster {group}" if group_kind == "cluster" else plain_text(group)


def integer_ticks(axes: "Axes", values: Sequence[int]) -> None:
    """Put at most twelve ticks on the x axis, at whole numbers."""
    step = max(1, -(-len(values) // 12))
    axes.set_xticks(list(values)[::step])


def png(figure: "Figure", dpi: int = 200) -> bytes:
    """The figure as PNG on white. The same figure gives the same bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_RC), _any_script():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def thumbnail(figure: "Figure", limit: int = 60_000) -> bytes:
    """The figure as PNG of fewer than `limit` bytes, at the highest resolution that fits.

    Raises:
        ValueError: the image is too large even at the lowest resolution.
    """
    for dpi in (110, 90, 72, 56, 40, 28):
        data = png(figure, dpi)
        if len(data) < limit:
            return data
    raise ValueError(f"thumbnail: expected a figure that fits in {limit} bytes at 28 dpi, got {len(data)}")


def svg(picture: Picture) -> str:
    """The figure as an SVG element with ids that are unique in the page.

    It uses the colours of the page: `currentColor`, and the CSS variables --grid and --c0 to --c7 (the palette).
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": picture.name}), _any_script():
        picture.figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None}
        )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _own_tag(tag[0], picture.name), text)
    # All figures keep one font size, on wide pages and on phones, where figures scroll.
    width = picture.figure.get_figwidth()
    return text.replace("<svg ", f'<svg style="max-width: {7.5 * width:.1f}rem; min-width: {5.2 * width:.1f}rem" ', 1)


def _own_tag(tag: str, name: str) -> str:
    """Rewrite ids and colours in one tag. Text between tags is kept, because a name may look like an id or a colour."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    for i, value in enumerate(OKABE_ITO):
        tag = tag.replace(value.lower(), f"var(--c{i})")
    return tag.replace(INK, "currentColor").replace(GRID, "var(--grid)")
