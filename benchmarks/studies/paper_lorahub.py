"""LoraHub in the bare loop of a study: `hydralora.training.lorahub` without records of each LoRA."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from experts_mix import Ints, Mix
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from study_runs import document_sums

from hydralora.training import TrainingConfig
from hydralora.training.lorahub import EXAMPLES_PER_CLUSTER, apportion
from hydralora.training.lorahub_search import BUDGET, L1_WEIGHT, minimize, weighted_sum


def train_lorahub(
    model: PeftModel,
    mix: Mix,
    documents: Ints,
    config: TrainingConfig,
    device: str,
    train: Callable[[Ints, TrainingConfig], dict[str, Any]],
) -> dict[str, Any]:
    """Train the LoRA of the model on each cluster, from one start, and leave their best weighted sum in the model.

    `train` trains the model on documents. Steps are divided among the clusters in proportion to their tokens.
    Returns the steps, tokens and losses of all LoRAs, one after the other.
    """
    assert config.max_steps is not None
    clusters = mix.labels["cluster"][documents]
    shares = [documents[clusters == cluster] for cluster in np.unique(clusters)]
    start, states, records = _state(model), [], []
    for share, steps in zip(shares, apportion(config.max_steps, [mix.lengths[s].sum() for s in shares]), strict=True):
        set_peft_model_state_dict(model, start)
        records.append(train(share, replace(config, max_steps=steps)))
        states.append(_state(model))
    random = np.random.default_rng(config.seed)
    examples = np.concatenate([random.permutation(share)[:EXAMPLES_PER_CLUSTER] for share in shares])
    answers = (mix.lengths - mix.answer_starts)[examples].sum()

    def loss(weights: Sequence[float]) -> float:
        set_peft_model_state_dict(model, weighted_sum(states, weights))
        sums = document_sums(model, mix, examples, None, device)  # type: ignore[arg-type]
        return float(sums.sum() / answers) + L1_WEIGHT * float(np.abs(weights).mean())

    set_peft_model_state_dict(model, weighted_sum(states, minimize(loss, len(states), BUDGET, config.seed)))
    return {
        "steps": sum(record["steps"] for record in records),
        "tokens": sum(record["tokens"] for record in records),
        "losses": [value for record in records for value in record["losses"]],
    }


def _state(model: PeftModel) -> dict[str, Any]:
    return {name: values.detach().clone() for name, values in get_peft_model_state_dict(model).items()}
