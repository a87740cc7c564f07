"""Figures from tables: matplotlib, one module for each subject; no numbers are computed here."""

from analysis.figures.style import Picture, png, svg, thumbnail

__all__ = ["Picture", "png", "svg", "thumbnail"]
