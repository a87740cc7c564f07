"""LoraHub: one LoRA for each cluster of the documents, composed into one by a search without gradients.

The composed adapter is (sum_i w_i B_i)(sum_i w_i A_i) with one weight w_i for each LoRA, found by nevergrad's NGOpt on
a few examples as the authors do (arXiv 2307.13269): from w = 0, within [-1.5, 1.5], minimising the answer loss plus
0.05 times the mean |w_i|. It is a plain LoRA, which any program that knows PEFT can load.
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
_L1 = 0.05


@dataclasses.dataclass(frozen=True)
class LoraHubResult:
    """Outcome of a search.

    Attributes:
        weights: one for each LoRA, in the order of their folders.
        loss: mean answer loss of the examples under the composed adapter, without the penalty on weights.
        evaluations: how often the examples were evaluated.
    """

    weights: tuple[float, ...]
    loss: float
    evaluations: int


def compose_lorahub(
    model: "PreTrainedModel",
    adapter_folders: Sequence[Path],
    examples: TokenisedDocuments,
    *,
    folder: Path,
    budget: int = BUDGET,
    seed: int = 0,
) -> LoraHubResult:
    """Search the weights of trained LoRAs and write the composed adapter into `folder`.

    Args:
        model: the base model of all of them; it has the composed adapter afterwards.
        adapter_folders: LoRAs as PEFT saves them, equal in configuration.
        examples: a few documents of the task that the composed adapter is for.
        folder: gets `adapter_config.json` and `adapter_model.safetensors`.
        budget: evaluations of the examples that the search may use.
        seed: of the search.

    Raises:
        ModuleNotFoundError: nevergrad is not installed.
        TrainingError: fewer than two LoRAs, or LoRAs that differ in more than their weights.
    """
    from hydralora.training.checkpoints import save_model

    composed, result = search_weights(model, adapter_folders, examples, budget=budget, seed=seed)
    save_model(composed, folder)
    return result


def search_weights(
    model: "PreTrainedModel", folders: Sequence[Path], examples: TokenisedDocuments, *, budget: int, seed: int
) -> "tuple[PeftModel, LoraHubResult]":
    """The base model with the composed adapter, and how it was found; see `compose_lorahub`."""
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
        set_peft_model_state_dict(adapted, _weighted_sum(states, weights))
        return evaluate_documents(adapted, examples, pad_token_id=0).mean

    found = _minimize(lambda weights: loss(weights) + _L1 * float(np.abs(weights).mean()), len(states), budget, seed)
    return adapted, LoraHubResult(tuple(float(weight) for weight in found), loss(found), evaluations)


def _minimize(loss: Callable[[Sequence[float]], float], size: int, budget: int, seed: int) -> Sequence[float]:
    """Weights of least loss among `budget` tried."""
    import nevergrad
    from nevergrad.optimization.recaster import _MessagingThread

    space = nevergrad.p.Array(init=np.zeros(size), lower=-_BOUND, upper=_BOUND)
    space.random_state.seed(seed)
    optimizer = nevergrad.optimizers.NGOpt(parametrization=space, budget=budget)
    threads = set(threading.enumerate())
    try:
        with warnings.catch_warnings():
            # At such budgets NGOpt hands over to COBYLA, which draws nothing at random; scipy corrects its last radius.
            warnings.filterwarnings("ignore", "COBYLA: Invalid RHOEND", UserWarning)
            best: Sequence[float] = optimizer.minimize(loss).value
    finally:
        # COBYLA runs in a thread that goes on waiting for values, and would keep the process alive.
        for thread in set(threading.enumerate()) - threads:
            if isinstance(thread, _MessagingThread):
                thread.stop()
    return best


def _weighted_sum(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    return {
        name: torch.stack([float(weight) * state[name] for weight, state in zip(weights, states, strict=True)]).sum(0)
        for name in states[0]
    }


def check_nevergrad() -> None:
    """Raises ModuleNotFoundError before any training, not after it."""
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
            raise TrainingError(f"Expected LoRAs of one configuration; {folder} and {folders[0]} differ in {differing}")
