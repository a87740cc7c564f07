"""What a dry run cannot know."""

import pytest
import yaml

from pipelines.study.dry_run import dry_run
from tests.pipelines.study.test_sizes import CONFIGS


@pytest.mark.parametrize(
    ("name", "text"),
    [("quickstart", "configuration of the job compare or study"), ("compare", "does not know N")],
)
def test_what_a_dry_run_cannot_know(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dry_run(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))
