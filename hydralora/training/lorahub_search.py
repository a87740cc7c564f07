"""LoraHub: one LoRA for each cluster of the documents, composed into one by a search without gradients.

The composed adapter is (sum_i w_i B_i)(sum_i w_i A_i) with one weight w_i for each LoRA. As in the authors' code
(arXiv 2307.13269), nevergrad's NGOpt finds the weights on a few examples: from w = 0, within [-1.5, 1.5], it minimises
the answer loss plus 0.05 times the mean |w_i|. The result is a plain LoRA that PEFT can load.
"""

import dataclasses
import importlib.util
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hydralora.data import TokenisedDocuments
from hydralora.evaluation import evaluate_documents
from hydralora.training.config import TrainingError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BUDGET = 40
_BOUND = 1.5
L1_WEIGHT = 0.05


@dataclasses.dataclass(frozen=True)
class LoraHubResult:
    """Outcome of a search.

    Attributes:
        weights: One weight for each LoRA, in the order of their folders.
        loss: Mean answer loss of the examples with the composed adapter, in nats per token, without the penalty on
            weights.
    """

    weights: tuple[float, ...]
    loss: float
    evaluations: int


def compose_lorahub(
    model: "PreTrainedModel",
    folders: Sequence[Path],
    examples: TokenisedDocuments,
    *,
    budget: int = BUDGET,
    seed: int = 0,
) -> "tuple[PeftModel, LoraHubResult]":
    """Search weights for trained LoRAs; return the base model with the composed adapter, and the result.

    Args:
        model: The base model of all LoRAs, which gets the composed adapter.
        folders: Folders of LoRAs as PEFT saves them, all with the same configuration.
        examples: A few documents of the task for which the LoRAs are composed.
        budget: Largest number of evaluations of the examples in the search.

    Raises:
        ModuleNotFoundError: If nevergrad is not installed.
        TrainingError: If there are fewer than two LoRAs, or their configurations differ.
    """
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    check_nevergrad()
    _check_equal(folders)
    states = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    adapted = PeftModel.from_pretrained(model, folders[0]).eval()
    evaluations = 0

    def loss(weights: Sequence[float]) -> float:
        nonlocal evaluations
        evaluations += 1
        set_peft_model_state_dict(adapted, weighted_sum(states, weights))
        return evaluate_documents(adapted, examples, pad_token_id=0).mean

    found = minimize(
        lambda weights: loss(weights) + L1_WEIGHT * float(np.abs(weights).mean()), len(states), budget, seed
    )
    return adapted, LoraHubResult(tuple(float(weight) for weight in found), loss(found), evaluations)


def minimize(loss: Callable[[Sequence[float]], float], size: int, budget: int, seed: int) -> Sequence[float]:
    """The weights with the smallest loss among `budget` candidates."""
    import nevergrad
    from nevergrad.optimization.recaster import _MessagingThread

    space = nevergrad.p.Array(init=np.zeros(size), lower=-_BOUND, upper=_BOUND)
    space.random_state.seed(seed)
    optimizer = nevergrad.optimizers.NGOpt(parametrization=space, budget=budget)
    threads = set(threading.enumerate())
    try:
        with warnings.catch_warnings():
            # With such budgets NGOpt uses COBYLA, which is deterministic; scipy corrects its final radius and warns.
            warnings.filterwarnings("ignore", "COBYLA: Invalid RHOEND", UserWarning)
            best: Sequence[float] = optimizer.minimize(loss).value
    finally:
        # COBYLA runs in a thread that keeps waiting for values and would keep the process alive.
        for thread in set(threading.enumerate()) - threads:
            if isinstance(thread, _MessagingThread):
                thread.stop()
    return best


def weighted_sum(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The parameters of the composed adapter, from those of each LoRA."""
    return {
        name: torch.stack([float(weight) * state[name] for weight, state in zip(weights, states, strict=True)]).sum(0)
        for name in states[0]
    }


def check_nevergrad() -> None:
    """Raise ModuleNotFoundError if nevergrad is missing, before any training starts."""
    if importlib.util.find_spec("nevergrad") is None:
        raise ModuleNotFoundError("LoraHub searches with nevergrad, which is not installed: pip install nevergrad")


def _check_equal(folders: Sequence[Path]) -> None:
    from peft import PeftConfig

    if len(folders) < 2:
        raise TrainingError(f"Expected two LoRAs or more to compose, got {len(folders)}")
    first, *others = (PeftConfig.from_pretrained(folder).to_dict() for folder in folders)
    if first["peft_type"] != "LORA":
        raise TrainingError(f"Expected LoRAs to compose, got {first['peft_type']} in {folders[0]}")
    for folder, other in zip(folders[1:], others, strict=True):
        differing = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if differing:
            raise TrainingError(
                f"Expected LoRAs with the same configuration; {folder} and {folders[0]} differ in {differing}"
            )
