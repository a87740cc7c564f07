"""What a dry run cannot know."""

import pytest
import yaml

from pipelines.study.dry_run import dry_run
from tests.pipelines.study.test_sizes import CONFIGS


@pytest.mark.parametrize("name", ["quickstart", "compare"])
def test_other_jobs_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="configuration of the job study"):
        dry_run(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))
