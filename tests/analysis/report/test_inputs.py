"""Inputs that are refused."""

import dataclasses

import polars as pl
import pytest

from tests.analysis.report.small_reports import EMPTY


def test_a_table_without_its_columns_is_refused():
    with pytest.raises(ValueError, match="sweep: expected columns n_clusters, inertia; got no inertia"):
        dataclasses.replace(EMPTY, sweep=pl.DataFrame({"n_clusters": [1]}))
