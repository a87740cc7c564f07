"""HumanEval (Chen et al., arXiv 2107.03374): pass@1 and pass@10 of programs that run in `hydralora.harness.sandbox`.

Prompt, stop sequences and sampling are those of the harness's `humaneval_64`. That task itself is not used, because it
downloads its metric from the hub and runs programs without a sandbox. A problem's tests call the program's function
from another process. Other functions that the tests use come from the prompt, not from the program.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydralora.harness.sandbox import Sandbox

NUM_SAMPLES = 10
ISOLATED = Sandbox()


def humaneval_config() -> dict[str, Any]:
    """The fields of the harness's task config."""
    return {
        "task": "humaneval",
        "dataset_path": "openai/openai_humaneval",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{test}}\ncheck({{entry_point}})",
        "num_fewshot": 0,
        "repeats": NUM_SAMPLES,
        "generation_kwargs": {
            "until": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
            "max_gen_toks": 1024,
            "do_sample": True,
            "temperature": 0.2,
            "top_p": 0.95,
        },
        "filter_list": [{"name": "none", "filter": [{"function": "custom", "filter_fn": _keep_all}]}],
        "process_results": score_samples,
        "metric_list": [
            {"metric": f"pass@{k}", "aggregation": "mean", "higher_is_better": True} for k in (1, NUM_SAMPLES)
        ],
        "unsafe_code": True,
    }


def score_samples(
    doc: Mapping[str, str], results: Sequence[Sequence[str]], sandbox: Sandbox = ISOLATED
) -> dict[str, float]:
    """pass@1 and pass@10 of a problem.

    Args:
        doc: The problem, with `prompt`, `test` and `entry_point`.
        results: A list that holds one list, the sampled completions.

    Raises:
        SandboxError: If the sandbox does not work.
    """
    (completions,) = results
    passed = sum(solves(doc, completion, sandbox) for completion in completions)
    return {f"pass@{k}": pass_at_k(len(completions), passed, k) for k in (1, NUM_SAMPLES)}


def solves(doc: Mapping[str, str], completion: str, sandbox: Sandbox) -> bool:
    """Whether the prompt with this completion passes the problem's tests."""
    name = doc["entry_point"]
    test = f"{doc['test']}\ncheck({name})"
    return sandbox.passes(f"{doc['prompt']}{completion}\n", test, names=[name], given=doc["prompt"])


def pass_at_k(n: int, passed: int, k: int) -> float:
    """Probability that at least one of k samples passes, if k are drawn from n and `passed` of the n pass (equation 1).

    Raises:
        ValueError: If there are fewer than k samples.
    """
    if n < k:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {n}")
    return 1 - math.comb(n - passed, k) / math.comb(n, k)


def _keep_all(resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> Sequence[Sequence[str]]:
    """Filter that keeps all samples; without a filter the harness keeps only the first."""
    return resps
