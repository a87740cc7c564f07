"""The harness's tasks of each benchmark of the paper, and where their documents come from.

Prompt, examples, filters and metric of a task are always the harness's own. With local files, only the data set is
replaced. HumanEval is the exception, see `hydralora.harness.humaneval`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydralora.harness.corpora import read_bbh, read_gsm8k, read_humaneval, read_mmlu
from hydralora.harness.humaneval import humaneval_config

if TYPE_CHECKING:
    from datasets import DatasetDict
    from lm_eval.api.task import Task


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A row of the table below.

    Attributes:
        read: Reads the documents of a subset from the folder of local files.
        metric: The metric that is averaged over the documents of all subsets.
        prefix: Prefix of the tasks' names in the harness; the rest of a name is the subset.
        subsets: Subsets of the benchmark; None for all that the harness has.
        folder: Folder of the tasks inside the harness's `tasks`; None for a task that we define.
        fields: Returns fields of the harness's task config: those to replace, or all fields of a task that we define.
    """

    read: Callable[[Path, str], "DatasetDict"]
    metric: str
    prefix: str
    subsets: tuple[str, ...] | None = None
    folder: str | None = None
    fields: Callable[[], dict[str, Any]] = dict


def _with_stripped_answers() -> dict[str, Any]:
    """Filters that also score the stripped answer. The harness keeps the space before an answer, so its score is 0."""
    take_first = {"function": "take_first"}
    filters = {"none": [take_first], "stripped": [{"function": "remove_whitespace"}, take_first]}
    return {"filter_list": [{"name": name, "filter": steps} for name, steps in filters.items()]}


_MMLU = Benchmark(read_mmlu, "acc", "mmlu_", folder="mmlu/default")
_MEDICAL = ("clinical_knowledge", "professional_medicine", "college_medicine")
_LAW = ("professional_law", "international_law")

BENCHMARKS: Mapping[str, Benchmark] = {
    "mmlu": _MMLU,
    "mmlu_medical": dataclasses.replace(_MMLU, subsets=_MEDICAL),
    "mmlu_law": dataclasses.replace(_MMLU, subsets=_LAW),
    "gsm8k": Benchmark(read_gsm8k, "exact_match", "gsm8k_", ("cot",), "gsm8k"),
    "bbh": Benchmark(read_bbh, "exact_match", "bbh_cot_fewshot_", folder="bbh/cot_fewshot"),
    "bbh_direct": Benchmark(read_bbh, "exact_match", "bbh_fewshot_", None, "bbh/fewshot", _with_stripped_answers),
    "humaneval": Benchmark(read_humaneval, "pass@1", "humaneval", ("",), fields=humaneval_config),
}
"""MMLU without examples, GSM8K with 8 worked examples, BBH with 3 examples that are worked (`bbh`) or show only the
answer (`bbh_direct`), and HumanEval."""


def load_tasks(names: Sequence[str], corpora: Path | None) -> tuple[dict[str, "Task"], dict[str, list[str]]]:
    """Load the harness's tasks of some benchmarks, each task once.

    Args:
        corpora: Folder of local files; None for the hub.

    Returns:
        Task by name, and the names of each benchmark's tasks.
    """
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    folders = [root / folder for folder in dict.fromkeys(BENCHMARKS[name].folder for name in names) if folder]
    manager = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
    tasks: dict[str, Task] = {}
    members = {}
    for name in names:
        members[name] = _member_names(BENCHMARKS[name], manager.all_subtasks)
        new = [_specification(BENCHMARKS[name], member, corpora) for member in members[name] if member not in tasks]
        tasks |= manager.load(new)["tasks"]
    return tasks, members


def _member_names(benchmark: Benchmark, all_names: Sequence[str]) -> list[str]:
    if benchmark.subsets is None:
        return [name for name in all_names if name.startswith(benchmark.prefix)]
    return [benchmark.prefix + subset for subset in benchmark.subsets]


def _specification(benchmark: Benchmark, member: str, corpora: Path | None) -> dict[str, Any]:
    """A task in the form that the harness's TaskManager loads."""
    fields = {"task": member, **benchmark.fields()}
    if corpora is not None:
        fields["custom_dataset"] = _reader(benchmark, corpora, member.removeprefix(benchmark.prefix))
    # The harness lets us replace fields of its own tasks only inside a group.
    return fields if benchmark.folder is None else {"group": f"{member}_alone", "task": [fields]}


def _reader(benchmark: Benchmark, corpora: Path, subset: str) -> Callable[..., "DatasetDict"]:
    def read(**metadata: Any) -> "DatasetDict":  # the harness passes the task's metadata
        return benchmark.read(corpora, subset)

    return read
