"""Evaluates a model, with or without an adapter, on the paper's benchmarks."""

import dataclasses
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hydralora.adapter.layer import HydraLoraLayer
from hydralora.harness.benchmarks import BENCHMARKS, load_tasks
from hydralora.harness.humaneval import score_samples
from hydralora.harness.sandbox import Sandbox

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class BenchmarkScore:
    """A row of the result.

    Attributes:
        task: The harness's task, or the benchmark's name for the mean over all documents of its tasks.
        metric: The harness's metric; if a task has several filters for the answer, with the filter's name.
        stderr: Its standard error; None if the harness gives none.
    """

    benchmark: str
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int


def evaluate_benchmarks(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[str],
    *,
    corpora: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    max_gen_toks: int | None = None,
    apply_chat_template: bool = False,
    gates: Callable[[Sequence[str]], Tensor] | None = None,
    allow_code_execution: bool = False,
    unsafe_no_isolation: bool = False,
    seed: int = 0,
) -> list[BenchmarkScore]:
    """Evaluate benchmarks with lm-evaluation-harness.

    Args:
        model: A causal language model, or a `PeftModel` of one.
        tasks: Names in `BENCHMARKS`. A task that two of them share is evaluated once.
        corpora: Folder of local Parquet files (docs/benchmarks.md); None downloads from the hub.
        limit: Evaluate only the first `limit` documents of each task; None for all. Scores of few documents are noisy.
        num_fewshot: Number of examples before each question; None for the benchmark's own number (see `BENCHMARKS`).
        batch_size: Number of sequences per batch. It changes time and memory, but not scores, except that HumanEval
            draws other samples.
        max_gen_toks: Largest number of tokens in a generated answer; None for the task's own number.
        apply_chat_template: Whether to put prompts into the tokenizer's chat template, with examples as turns.
        gates: A function from questions to gates [n, N], for adapters with router_input="given".
        allow_code_execution: Whether to run the programs that the model writes for humaneval, isolated by bubblewrap.
        unsafe_no_isolation: Whether to run them without bubblewrap, with all rights of this process. Use it only on a
            machine without valuable data, such as a disposable container without network.
        seed: Seed for sampling and for the choice of examples.

    Returns:
        Scores in the order of `tasks`. For a benchmark with several tasks, its mean comes first.

    Raises:
        ValueError: If tasks are unknown, the limit is below 1, code needs permission to run, or gates are missing or
            not used.
        ImportError: If the harness is not installed.
        FileNotFoundError: If a benchmark's file is not in `corpora`.
        SandboxError: If bubblewrap is missing or does not work here.
    """
    sandbox = Sandbox(isolated=not unsafe_no_isolation) if allow_code_execution else None
    _check(model, tasks, limit=limit, gates=gates, sandbox=sandbox)
    from lm_eval.evaluator import evaluate

    was_training = model.training
    with _few_warnings():
        loaded, members = load_tasks(tasks, corpora)
        language_model = _language_model(model, tokenizer, gates, batch_size)
    for task in loaded.values():
        _configure(task, num_fewshot=num_fewshot, max_gen_toks=max_gen_toks, seed=seed)
    if sandbox is not None and "humaneval" in loaded:
        loaded["humaneval"].set_config("process_results", functools.partial(score_samples, sandbox=sandbox))
    # Without a list, torch saves the state of every visible GPU and warns.
    device = next(model.parameters()).device
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            results = evaluate(
                language_model,
                {"tasks": loaded, "groups": _groups(loaded, members)},
                limit=limit,
                log_samples=False,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
                confirm_run_unsafe_code=allow_code_execution,
            )["results"]
    finally:
        model.train(was_training)
    return [score for name in tasks for score in _scores(name, members[name], results)]


def _check(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    limit: int | None,
    gates: Callable[..., Tensor] | None,
    sandbox: Sandbox | None,
) -> None:
    if not tasks or set(tasks) - BENCHMARKS.keys():
        raise ValueError(f"Expected some of {sorted(BENCHMARKS)}, got {list(tasks)}")
    if limit is not None and limit < 1:  # the harness reads 0 as no limit
        raise ValueError(f"Expected a `limit` of at least 1, or None for all documents, got {limit}")
    if _needs_gates(model) != (gates is not None):
        raise ValueError(
            "This adapter has router_input='given': pass `gates`, a function from questions to gates [n, N] (for "
            "example from the corpus model), or fix them with hydralora.set_fixed_gates."
            if gates is None
            else "Got `gates`, but no active adapter takes them: they are for router_input='given'."
        )
    if importlib.util.find_spec("lm_eval") is None:
        raise ImportError("Benchmarks need lm-evaluation-harness. Install it: pip install 'hydralora[eval]'")
    if "humaneval" in tasks:
        if sandbox is None:
            raise ValueError(
                "The task humaneval runs programs that the model writes, isolated by bubblewrap. To allow that on this "
                "machine, pass allow_code_execution=True (--allow-code-execution)."
            )
        sandbox.check()


def _needs_gates(model: nn.Module) -> bool:
    return any(
        layer.router_input.get(name) == "given" and layer.fixed_gates(name) is None
        for layer in model.modules()
        if isinstance(layer, HydraLoraLayer)
        for name in layer.active_adapters
    )


def _configure(task: "Task", *, num_fewshot: int | None, max_gen_toks: int | None, seed: int) -> None:
    """Configure a task like the harness's command line does: a task with zero examples always keeps zero."""
    own = task.get_config("num_fewshot")
    task.set_config("num_fewshot", own if num_fewshot is None or own == 0 else num_fewshot)
    if max_gen_toks is not None and task.get_config("output_type") == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    task.set_fewshot_seed(seed)


def _language_model(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    gates: Callable[[Sequence[str]], Tensor] | None,
    batch_size: int,
) -> Any:
    from lm_eval.models.huggingface import HFLM

    from hydralora.harness.language_model import SequenceGatesLM

    options = {"pretrained": model, "tokenizer": tokenizer, "batch_size": batch_size}
    return HFLM(**options) if gates is None else SequenceGatesLM(gates, **options)


@contextmanager
def _few_warnings() -> Iterator[None]:
    """Silence the harness during setup: it warns about an in-memory model and replaced data sets, which we intend."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _groups(tasks: Mapping[str, "Task"], members: Mapping[str, Sequence[str]]) -> dict[str, "Group"]:
    """Groups over which the harness averages: the benchmarks with several tasks."""
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    groups = {}
    for name, names in members.items():
        if len(names) > 1:
            metric = AggMetricConfig(metric=BENCHMARKS[name].metric, weight_by_size=True)
            groups[name] = Group(name, aggregate_metric_list=[metric])
            for member in names:
                groups[name].add(tasks[member])
    return groups


def _scores(benchmark: str, members: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> list[BenchmarkScore]:
    """Scores of a benchmark's tasks; if it has several, their mean comes first."""
    scores = []
    for name in [benchmark, *members] if len(members) > 1 else members:
        result = results[name]
        for key, value in result.items():
            metric, comma, answer_filter = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                stderr = result[f"{metric}_stderr,{answer_filter}"]
                label = metric if answer_filter == "none" else f"{metric}, {answer_filter}"
                scores.append(
                    BenchmarkScore(
                        benchmark,
                        name,
                        label,
                        float(value),
                        None if stderr == "N/A" else float(stderr),
                        result["sample_len"],
                    )
                )
    return scores
