"""A common style for all figures: sizes, texts, wide and narrow forms, and reproducible bytes."""

import contextlib
import contextvars
import functools
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec

from analysis.figures.palette import OKABE_ITO, color, marker

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


NARROW = 3.45
"""Width in inches of a figure for a phone: its text is 11 pixels high on a screen of 390."""

_is_narrow = contextvars.ContextVar("narrow", default=False)


@dataclass(frozen=True)
class Picture:
    """A figure with its texts.

    Attributes:
        name: of files and links.
        caption: shown below it.
        alt: replaces it for screen readers.
        narrow: draws the same figure for a phone; None if there is no such form.
    """

    name: str
    figure: "Figure"
    caption: str
    alt: str
    narrow: "Callable[[], Figure] | None" = None


_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Picture]) -> Callable[_Arguments, Picture]:
    """Decorator that draws in the common style and restores matplotlib's settings afterwards."""

    def once(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Picture:
        from matplotlib import rc_context

        with rc_context(_RC), _any_script():
            picture = draw(*args, **kwargs)
            _plain_texts(picture.figure)
            # The layout is computed only once: the engine starts from its last result, so every save would differ
            # slightly.
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")
            return picture

    @functools.wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Picture:
        def narrow() -> "Figure":
            before = _is_narrow.set(True)
            try:
                return once(*args, **kwargs).figure
            finally:
                _is_narrow.reset(before)

        return replace(once(*args, **kwargs), narrow=narrow)

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
    n_rows: int = 1,
    n_columns: int = 1,
    *,
    width: float = 6.6,
    height: float = 2.8,
    share_y: bool = False,
    used: int | None = None,
) -> tuple["Figure", list["Axes"]]:
    """An empty figure with sizes in inches, and the list of its axes, row by row.

    The narrow form has its columns below each other: one column, or two of four.

    Args:
        used: number of axes that are drawn into, the first ones; the others are hidden. None for all.
    """
    from matplotlib.figure import Figure

    if _is_narrow.get() and n_columns > 1:
        columns = 2 if n_columns >= 4 else 1
        rows = -(-(used or n_rows * n_columns) // columns)
        # A row keeps its height.
        height, n_rows, n_columns = height / n_rows * rows, rows, columns
    figure = Figure(figsize=(min(width, NARROW) if _is_narrow.get() else width, height), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=share_y).flat)
    for spare in axes[used:] if used else ():
        spare.set_visible(False)
    return figure, axes


def intervals(
    axes: "Axes", rows: "pl.DataFrame", column: str, places: Any, number: int, *, upright: bool = False, **style: Any
) -> None:
    """Draw a column as marks of category `number`, with bars from `<column>_low` to `<column>_high`.

    Args:
        places: where the marks are along the other axis: y, or x if the bars are upright.
        style: further arguments of `Axes.errorbar`.
    """
    value, low, high = (rows[name].to_numpy() for name in (column, f"{column}_low", f"{column}_high"))
    bars = [(value - low).clip(0), (high - value).clip(0)]
    at = {"x": places, "y": value, "yerr": bars} if upright else {"x": value, "y": places, "xerr": bars}
    axes.errorbar(**{"fmt": marker(number), "color": color(number), "elinewidth": 1, **at, **style})


def legend_below(figure: "Figure", n_entries: int) -> None:
    """Place the legend below the axes, left aligned."""
    figure.legend(loc="outside lower left", ncols=min(n_entries, 2 if _is_narrow.get() else 4))


def ordered_groups(groups: Iterable[str]) -> list[str]:
    """Distinct groups in order: "all", then numbers in numerical order, then words."""
    return sorted(set(groups), key=lambda g: (g != "all", not g.isdigit(), int(g) if g.isdigit() else 0, g))


def group_name(group_kind: str, group: str) -> str:
    """The name of a group in figures."""
    if group == "all":
        return "all"
    return f"cluster {group}" if group_kind == "cluster" else plain_text(group)


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Names for titles that stand beside each other: without the folder that all share, and cut to `longest`."""
    folders = {name.rpartition("/")[0] for name in names if name != "all"}
    shared = f"{folders.pop()}/" if len(folders) == 1 else ""
    return [plain_text(name.removeprefix(shared) if shared != "/" else name, longest) for name in names]


def integer_ticks(axes: "Axes", values: Sequence[int], also: int | None = None, *, most: int = 12) -> None:
    """Put at most `most` ticks on the x axis, at whole numbers; on a phone half as many.

    Args:
        also: a number that has a tick in any case; ticks too near to it give way.
    """
    step = max(1, -(-len(values) // (most // 2 if _is_narrow.get() else most)))
    ticks = list(values)[::step]
    if also is not None and also not in ticks:
        near = step * (values[1] - values[0]) / 2 if len(values) > 1 else 0
        ticks = sorted([tick for tick in ticks if abs(tick - also) > near] + [also])
    axes.set_xticks(ticks)


def at_end_of_bar(axes: "Axes", x: float, y: float, text: str) -> None:
    """Write a number to the right of a horizontal bar that ends at `x`. (An SVG drops a space before a text.)"""
    axes.annotate(text, (x, y), xytext=(3, 0), textcoords="offset points", va="center")


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


def svg(picture: Picture, *, narrow: bool = False) -> str:
    """The figure as an SVG element with ids that are unique in the page.

    It uses the colours of the page: `currentColor`, and the CSS variables --grid and --c0 to --c7 (the palette). The
    class `wide` or `narrow` says for which screen it is.

    Args:
        narrow: the form for a phone.
    """
    from matplotlib import rc_context

    figure = picture.narrow() if narrow and picture.narrow is not None else picture.figure
    name = f"{picture.name}-narrow" if narrow else picture.name
    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": name}), _any_script():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _own_tag(tag[0], name), text)
    form = "narrow" if narrow else "wide"
    return text.replace("<svg ", f'<svg class="{form}" style="--inches: {figure.get_figwidth():.2f}" ', 1)


def _own_tag(tag: str, name: str) -> str:
    """Rewrite ids and colours in one tag. Text between tags is kept, because a name may look like an id or a colour."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    for i, value in enumerate(OKABE_ITO):
        tag = tag.replace(value.lower(), f"var(--c{i})")
    return tag.replace(INK, "currentColor").replace(GRID, "var(--grid)")
