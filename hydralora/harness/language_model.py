"""The harness's language model for adapters with given gates.

This is a separate module because it imports the harness.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from hydralora.gates.fixed import fixed_gates

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

GatesOfPrompts = Callable[[Sequence[str]], Tensor]

_QUESTION_COLUMNS = ("question", "input", "prompt")  # MMLU and GSM8K, BBH, HumanEval


class SequenceGatesLM(HFLM):
    """Answers requests with the gates of their question.

    Requests with equal gates are answered together. So one-hot gates cost one pass for each expert in use, and gates
    that differ for every question cost one pass for each question.

    Args:
        gates: A function from n questions to gates [n, N]. Questions are those of the documents, without examples and
            options.
    """

    def __init__(self, gates: GatesOfPrompts, **options: Any) -> None:
        super().__init__(**options)
        self._gates_of_prompts = gates

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log likelihoods of continuations, each under the gates of its prompt."""
        return self._by_gates(requests, lambda some: super(SequenceGatesLM, self).loglikelihood(some, disable_tqdm))

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Generated texts, each under the gates of its prompt."""
        return self._by_gates(requests, lambda some: super(SequenceGatesLM, self).generate_until(some, disable_tqdm))

    def _by_gates(self, requests: "list[Instance]", answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
        questions = [_question(request.doc) for request in requests]
        distinct = list(dict.fromkeys(questions))
        gates = dict(zip(distinct, map(tuple, self._gates_of_prompts(distinct).tolist()), strict=True))
        groups: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for i, question in enumerate(questions):
            groups[gates[question]].append(i)
        answers: list[Any] = [None] * len(requests)
        for row, indices in groups.items():
            # Fixed for the context: a batch of any size has these gates in every row.
            with fixed_gates(self.model, torch.tensor(row, device=self.device)):
                for i, result in zip(indices, answer([requests[i] for i in indices]), strict=True):
                    answers[i] = result
        return answers


def _question(doc: dict[str, Any]) -> str:
    return str(next(doc[column] for column in _QUESTION_COLUMNS if column in doc))
