"""Gates that calibration finds: means over tokens, of all documents or of each group, and their gap to live routing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from hydralora.gates.calibration import calibrate_gates, calibrate_gates_by_group, compare_with_live
from hydralora.gates.export import export_lora
from hydralora.gates.fixed import fixed_gates
from hydralora.gates.recording import record_gates

MakeModel = Callable[..., PeftModel]


def padded_batches(tokens: Tensor) -> list[dict[str, Any]]:
    """Two batches, the second with two padded places in one row, and a group for each row."""
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    return [
        {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens, "group": ["a", "b"]},
        {"input_ids": tokens + 1, "attention_mask": mask, "labels": tokens, "group": ["b", "b"]},
    ]


def test_calibration_is_the_mean_over_tokens(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(lora_dropout=0.5)
    rows: dict[str, list[tuple[str, Tensor]]] = {}
    with record_gates(model) as recorded, torch.no_grad():
        for batch in padded_batches(tokens):
            for ids, mask, group in zip(batch["input_ids"], batch["attention_mask"], batch["group"], strict=True):
                model(input_ids=ids[None][:, mask == 1])  # alone and without its padding
                for name, gates in recorded.items():
                    rows.setdefault(name, []).append((group, gates[0]))
    model.train()
    overall = calibrate_gates(model, padded_batches(tokens))
    by_group = calibrate_gates_by_group(model, padded_batches(tokens))
    assert model.training
    assert sorted(by_group) == ["a", "b"]
    for name, groups in rows.items():
        torch.testing.assert_close(overall[name], torch.cat([gates for _, gates in groups]).mean(0))
        for label, measured in by_group.items():
            expected = torch.cat([gates for group, gates in groups if group == label]).mean(0)
            torch.testing.assert_close(measured[name], expected)


def test_calibration_limits(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    first = calibrate_gates(model, padded_batches(tokens)[:1])
    limited = calibrate_gates(model, padded_batches(tokens), max_batches=1)
    assert all(torch.equal(first[name], gates) for name, gates in limited.items())
    with pytest.raises(ValueError, match="batches with tokens to measure gates on, got none"):
        calibrate_gates(model, [])
    nothing = [{**padded_batches(tokens)[0], "attention_mask": torch.zeros_like(tokens)}]
    with pytest.raises(ValueError, match="got none"):
        calibrate_gates(model, nothing)


def test_calibration_with_layers_that_never_run(hydra_llama: MakeModel, tokens: Tensor, tmp_path: Path) -> None:
    model = hydra_llama()
    model.get_base_model().config.num_hidden_layers = 1  # of two that the model has
    with pytest.warns(UserWarning, match=r"7 adapted layers ran in no batch, such as model\.layers\.1\."):
        gates = calibrate_gates(model, padded_batches(tokens))
    assert gates["model.layers.1.mlp.up_proj"].tolist() == pytest.approx([1 / 3] * 3)
    export_lora(model, tmp_path, gates)


def test_gap_to_live_routing(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """Losses as transformers computes them, divergence as defined, and no gap where live gates are the fixed ones."""
    model = hydra_llama(lora_alpha=64)
    batch = padded_batches(tokens)[0]
    gap = compare_with_live(model, "uniform", [batch, batch])
    inputs = {"input_ids": tokens, "labels": tokens}
    with torch.no_grad():
        live = model(**inputs)
        with fixed_gates(model, "uniform"):
            fixed = model(**inputs)
    assert gap.live_loss == pytest.approx(live.loss.item(), rel=1e-5)
    assert gap.loss_difference == pytest.approx(fixed.loss.item() - live.loss.item(), abs=1e-5)
    p, q = (output.logits[:, :-1].softmax(-1) for output in (live, fixed))
    assert gap.mean_kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-3)
    assert gap.mean_kl > 1e-4
    assert gap.num_tokens == 2 * tokens[:, 1:].numel()

    uniform = hydra_llama(router_input="uniform")
    same = compare_with_live(uniform, "uniform", [batch])
    assert same.loss_difference == pytest.approx(0, abs=1e-6)
    assert same.mean_kl == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="no token with a label"):
        compare_with_live(model, "uniform", [])


@pytest.mark.parametrize("group", [["a"], ["a", "b", "c"], [], "ab", torch.tensor([[0], [1]])])
def test_groups_that_are_not_one_label_for_each_sequence(hydra_llama: MakeModel, tokens: Tensor, group: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a (label|list of labels).* in `group`"):
        calibrate_gates_by_group(hydra_llama(), [{"input_ids": tokens, "group": group}])
