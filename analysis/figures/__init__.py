"""Figures from tables, with matplotlib. There is one module for each subject; no statistics are computed here."""

from analysis.figures.style import Picture, png, svg, thumbnail

__all__ = ["Picture", "png", "svg", "thumbnail"]
