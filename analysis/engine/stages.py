"""Stages of shards. Every task writes its files and then a marker; a stage runs the tasks that have no marker.

The address of a task is a fingerprint of the code version, the function and the arguments. Files among the arguments
count by content. So an interrupted run goes on with its files, other code or data gets other files, and every engine
writes the same bytes to the same places.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.engine.files import digest, join, open_url, read_json, size_of, write_bytes, write_json
from analysis.engine.tasks import Engine, Task, function_of

FAN_IN = 8
"""How many files a task of a reduction merges. It is fixed, so that sums have one order on every engine."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """The result of a function of a stage.

    Attributes:
        value: a small value for JSON, which goes into the marker.
        files: suffix -> content.
    """

    value: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A finished task.

    Attributes:
        files: suffix -> reference (`url`, `digest`, `bytes`), which can be an argument of another task.
    """

    value: Any
    files: Mapping[str, dict[str, Any]]


class Stages:
    """Runs stages on an engine, with all files below one URL.

    Args:
        out: URL that every worker can write to.
        code_version: version of the functions. Files of another version are not used.
        log: gets a line about what each stage has to do.

    Attributes:
        counts: stage -> number of tasks, and number of tasks that ran in this call.
    """

    def __init__(self, engine: Engine, out: str, code_version: str, log: Callable[[str], object] = logger.info) -> None:
        self.engine, self.out, self.code_version, self.log = engine, out, code_version, log
        self.counts: dict[str, tuple[int, int]] = {}

    def map(
        self, stage: str, function: str, arguments: Sequence[Mapping[str, Any]], labels: Sequence[str]
    ) -> list[Done]:
        """Run one task for each entry of `arguments`, unless it is finished; in order.

        Args:
            function: `module:function`, see `Task`.
            labels: name of each task in error messages, usually the file that it reads.

        Raises:
            ShardError: a task failed. All that was finished before is kept.
        """
        targets = [join(self.out, stage, self._address(function, given)) for given in arguments]
        finished = _finished(self.out, stage, targets)
        tasks = {
            target: Task(
                "analysis.engine.stages:make",
                {"function": function, "arguments": dict(given), "target": target},
                f"{stage}: {label}",
            )
            for target, given, label in zip(targets, arguments, labels, strict=True)
            if target not in finished
        }
        self.counts[stage] = (len(targets), len(tasks))
        self.log(f"{stage}: {len(tasks)} of {len(targets)} tasks to do")
        missing = list(tasks)
        for position, marker in self.engine.run(list(tasks.values())):
            finished[missing[position]] = marker
        return [_done(target, finished[target]) for target in targets]

    def put(self, stage: str, suffix: str, content: bytes) -> dict[str, Any]:
        """Write a file of this process, named by its content; returns its reference."""
        name = digest(content)
        url = join(self.out, stage, f"{name}.{suffix}")
        if size_of(url) != len(content):
            write_bytes(url, content)
        return {"url": url, "digest": name, "bytes": len(content)}

    def one(self, stage: str, function: str, arguments: Mapping[str, Any]) -> Done:
        """Run a single task."""
        return self.map(stage, function, [arguments], ["the whole corpus"])[0]

    def reduce(
        self, stage: str, function: str, files: Sequence[dict[str, Any]], suffix: str, **more: Any
    ) -> dict[str, Any]:
        """Merge files in a tree of a fixed shape until one is left.

        Args:
            function: takes `files` and `more`; returns an `Output` with the merged file under `suffix`.
        """
        level = 0
        while True:
            groups = [list(files[first : first + FAN_IN]) for first in range(0, len(files), FAN_IN)]
            done = self.map(
                f"{stage}-{level}",
                function,
                [{"files": group, **more} for group in groups],
                [f"{len(group)} files, the first is {group[0]['url']}" for group in groups],
            )
            files = [one.files[suffix] for one in done]
            if len(files) == 1:
                return files[0]
            level += 1

    def _address(self, function: str, arguments: Mapping[str, Any]) -> str:
        identity = [self.code_version, function, _content_only(arguments)]
        return digest(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())


def make(function: str, arguments: dict[str, Any], target: str) -> dict[str, Any]:
    """Run a function, write its files, and write the marker last. This is what a worker does."""
    output: Output = function_of(function)(**arguments)
    files = {}
    for suffix, content in output.files.items():
        write_bytes(f"{target}.{suffix}", content)
        files[suffix] = {"digest": digest(content), "bytes": len(content)}
    marker = {"files": files, "value": output.value}
    write_json(f"{target}.json", marker)
    return json.loads(json.dumps(marker))


def _done(target: str, marker: Mapping[str, Any]) -> Done:
    return Done(marker["value"], {suffix: {"url": f"{target}.{suffix}", **f} for suffix, f in marker["files"].items()})


def _finished(out: str, stage: str, targets: Sequence[str]) -> dict[str, Any]:
    """Markers of finished tasks: all their files exist and have the recorded size."""
    system, path = open_url(join(out, stage))
    system.invalidate_cache()
    try:
        present = {name.rsplit("/", 1)[-1]: info["size"] for name, info in system.find(path, detail=True).items()}
    except FileNotFoundError:
        return {}
    finished = {}
    for target in targets:
        name = target.rsplit("/", 1)[-1]
        if f"{name}.json" not in present:
            continue
        try:
            marker = read_json(f"{target}.json")
            there = all(present.get(f"{name}.{suffix}") == file["bytes"] for suffix, file in marker["files"].items())
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            continue
        if there:
            finished[target] = marker
    return finished


def _content_only(value: Any) -> Any:
    """Arguments with the content of files in place of their URLs."""
    if isinstance(value, Mapping):
        if {"url", "digest"} <= set(value):
            return value["digest"]
        return {name: _content_only(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_content_only(item) for item in value]
    return value
