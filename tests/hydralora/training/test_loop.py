"""The training loop against a bare one, and its ends: resumed, diverged, out of disk."""

import copy
import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PeftModel, PromptTuningConfig
from safetensors.torch import load_file

from hydralora import HydraLoraConfig
from hydralora.data import IGNORED, TokenisedDocuments, collate, tokenise
from hydralora.evaluation.answer_loss import answer_loss
from hydralora.training import Progress, RunOptions, TrainingConfig, TrainingError, TrainingResult, plan_run, train
from hydralora.training.loop import clear_errors
from hydralora.training.trainer import AnswerTrainer
from tests.hydralora.small import small_documents, small_model, small_tokenizer

LORA = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
SHORT: dict[str, Any] = {"tokens_per_step": 128, "gradient_accumulation_steps": 2, "save_steps": 2, "max_steps": 5}


@pytest.fixture
def documents() -> TokenisedDocuments:
    rows = [{**row, "expert_gates": [1.0, 0.0], "cluster": i % 2} for i, row in enumerate(small_documents())]
    return tokenise(rows, small_tokenizer())


@pytest.fixture
def plain() -> TokenisedDocuments:
    return tokenise(small_documents(), small_tokenizer())


def run(
    folder: Path, documents: TokenisedDocuments, config: PeftConfig | None = LORA, **options: Any
) -> TrainingResult:
    run_options = RunOptions(**{name: options.pop(name) for name in ("held_out", "progress") if name in options})
    training = TrainingConfig(**{**SHORT, **options})
    return train(small_model(), small_tokenizer(), documents, folder, training, peft_config=config, options=run_options)


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_equals_a_bare_loop(tmp_path: Path, plain: TokenisedDocuments) -> None:
    """Accumulation, clipping and schedule: the same weights as the obvious loop over whole steps."""
    from peft import get_peft_model

    config = TrainingConfig(**SHORT, learning_rate=0.01)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    result = run(tmp_path, plain, lora, learning_rate=0.01)
    transformers.set_seed(0)
    model = get_peft_model(small_model(), lora).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    plan = plan_run(plain, config)
    rates = [0.005] + [0.01 * (1 + np.cos(np.pi * done / 4)) / 2 for done in range(4)]
    for step, rate in enumerate(rates):
        rows = plain.rows(np.concatenate(plan.micro_batches[2 * step : 2 * step + 2]))
        batch = collate(rows, 256)
        (answer_loss(model, batch) / (batch["labels"] != IGNORED).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    trained = dict(result.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained[name], parameter, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([line["learning_rate"] for line in curve(tmp_path)], rates, rtol=1e-6)


def test_leaves_a_whole_folder(tmp_path: Path, plain: TokenisedDocuments) -> None:
    result = run(tmp_path, plain, held_out=plain, max_steps=12, learning_rate=0.02)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors", "curve.jsonl", "run.json"}
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["held_out"]["after"]["sums"] < record["held_out"]["before"]["sums"]
    assert record["reload_difference"] == 0
    assert record["steps"] == 12
    assert record["tokens"] == curve(tmp_path)[-1]["tokens"]
    assert record["parameters"]["trainable"] == 2 * (2 * 4 * 32 + 4 * 32 + 4 * 16)
    assert set(curve(tmp_path)[0]) == {"step", "tokens", "loss", "learning_rate", "seconds"}
    assert result.held_out_after is not None
    assert result.held_out_after.means() == record["held_out"]["after"]


class Killed(BaseException):
    """Stands for SIGKILL; the true one is in test_processes.py."""


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """The training within is killed after so many steps."""
    loss = AnswerTrainer.compute_loss

    def die(self: AnswerTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step:
            raise Killed
        return loss(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerTrainer, "compute_loss", die)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_killed_run_continues_to_the_same_weights(
    tmp_path: Path, plain: TokenisedDocuments, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", plain)

    with killed(monkeypatch, killed_at):
        run(tmp_path / "killed", plain)
    run(tmp_path / "killed", plain)
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines, resumed = curve(tmp_path / "whole"), curve(tmp_path / "killed")
    assert [{**line, "seconds": 0} for line in lines] == [{**line, "seconds": 0} for line in resumed]
    assert whole.record["tokens"] == lines[-1]["tokens"]


@pytest.mark.parametrize("killed_at", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_adalora_continues_with_the_importance_it_had(
    tmp_path: Path, plain: TokenisedDocuments, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while ranks are pruned at every step, and after."""
    config = AdaLoraConfig(
        total_step=12, tinit=1, tfinal=4, init_r=6, target_r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"
    )
    options = {"max_steps": 12, "learning_rate": 0.05}
    expected = run(tmp_path / "whole", plain, copy.deepcopy(config), **options).model.state_dict()

    with killed(monkeypatch, killed_at):
        run(tmp_path / "killed", plain, copy.deepcopy(config), **options)
    found = run(tmp_path / "killed", plain, copy.deepcopy(config), **options).model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    values = [value for name, value in expected.items() if "lora_E" in name]
    assert sum(int((value == 0).sum()) for value in values) == 2 * (6 - 2)  # ranks were pruned


def test_a_tracker_that_is_not_installed(tmp_path: Path, plain: TokenisedDocuments) -> None:
    with pytest.raises(TrainingError, match="report_to names 'no_such_tracker', which is not installed: pip install"):
        run(tmp_path, plain, report_to=["no_such_tracker"])


def test_tensorboard_gets_the_curve(tmp_path: Path, plain: TokenisedDocuments) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, plain, report_to=["tensorboard"])
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [line["loss"] for line in curve(tmp_path)]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)


def test_a_checkpoint_cut_short_is_not_used(tmp_path: Path, plain: TokenisedDocuments) -> None:
    expected = run(tmp_path / "whole", plain).model.state_dict()
    broken = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    broken.mkdir(parents=True)
    (broken / "adapter_model.safetensors").write_bytes(b"half of")
    found = run(tmp_path / "run", plain).model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_checkpoints_of_another_run_are_refused(
    tmp_path: Path, plain: TokenisedDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(AnswerTrainer, "compute_loss", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(tmp_path, plain)
    with pytest.raises(TrainingError, match=r"another config.learning_rate \(0.001, now 1.0\)\. Delete that"):
        run(tmp_path, plain, learning_rate=1.0)
    with pytest.raises(TrainingError, match=r"another config.learning_rate_ratios.lora_B \(None, now 2.0\)\. Delete"):
        run(tmp_path, plain, learning_rate_ratios={"lora_B": 2.0})
    with pytest.raises(TrainingError, match=r"2 micro-batches a step; expected as many, got 3: gradient_accum"):
        run(tmp_path, plain, gradient_accumulation_steps=3)


def test_a_loss_that_is_no_number_stops_before_a_checkpoint(
    tmp_path: Path, plain: TokenisedDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: AnswerTrainer, *arguments: Any, **options: Any) -> Any:
        value = loss(self, *arguments, **options)
        return value * float("nan") if self.state.global_step == 3 else value

    loss = AnswerTrainer.compute_loss
    monkeypatch.setattr(AnswerTrainer, "compute_loss", diverge)
    with pytest.raises(TrainingError, match=r"Step 4: expected finite numbers, got .*nan.* Lower learning_rate"):
        run(tmp_path, plain)
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (tmp_path / "run.json").exists()


def test_a_full_disk_keeps_the_last_good_checkpoint(
    tmp_path: Path, plain: TokenisedDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = transformers.Trainer._save_optimizer_and_scheduler

    def fill(self: AnswerTrainer, folder: str) -> None:
        if self.state.global_step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(transformers.Trainer, "_save_optimizer_and_scheduler", fill)
    with pytest.raises(TrainingError, match=r"No disk space for a checkpoint at step 4 in .* make room and run again"):
        run(tmp_path, plain)
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_no_memory(tmp_path: Path, plain: TokenisedDocuments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        AnswerTrainer, "compute_loss", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA"))
    )
    with pytest.raises(
        TrainingError, match=r"128 tokens a step in 2 micro-batches\. Raise gradient_accumulation_steps"
    ):
        run(tmp_path, plain)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "or switch gradient_checkpointing on"),
        ({"gradient_checkpointing": True}, r"or split the base model between GPUs \(fsdp\)"),
        ({"gradient_checkpointing": True, "fsdp": True}, "or use more GPUs"),
    ],
)
def test_advice_without_memory_names_what_is_not_done_yet(settings: dict[str, bool], advice: str) -> None:
    with pytest.raises(TrainingError, match=advice), clear_errors(TrainingConfig(max_steps=1, **settings), Path()):
        raise torch.OutOfMemoryError("CUDA")


def test_early_stopping_takes_the_best_checkpoint(tmp_path: Path, plain: TokenisedDocuments) -> None:
    result = run(
        tmp_path, plain, held_out=plain, max_steps=40, learning_rate=5.0, eval_steps=2, early_stopping_patience=2
    )
    losses = [line["eval_loss"] for line in curve(tmp_path) if "eval_loss" in line]
    assert result.record["steps"] < 40
    assert result.held_out_after is not None
    assert result.held_out_after.mean == pytest.approx(min(losses), rel=1e-5)


def test_progress_reports_the_last_step(tmp_path: Path, plain: TokenisedDocuments) -> None:
    seen: list[Progress] = []
    run(tmp_path, plain, progress=seen.append)
    assert (seen[0].step, seen[-1].step, seen[-1].num_steps) == (1, 5, 5)
    assert seen[-1].tokens == curve(tmp_path)[-1]["tokens"]
    assert len(seen) <= 3


@pytest.mark.parametrize(
    "config",
    [
        HydraLoraConfig(num_experts=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        AdaLoraConfig(
            total_step=12, tinit=2, tfinal=4, init_r=6, target_r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"
        ),
        IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
        PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        None,
    ],
    ids=["hydralora", "adalora", "ia3", "prompt tuning", "full"],
)
def test_methods_learn(tmp_path: Path, plain: TokenisedDocuments, config: PeftConfig | None) -> None:
    result = run(tmp_path, plain, config, max_steps=12, learning_rate=0.02, held_out=plain)
    assert result.held_out_before is not None
    assert result.held_out_after is not None
    assert result.held_out_after.mean < result.held_out_before.mean
    assert (tmp_path / ("model.safetensors" if config is None else "adapter_model.safetensors")).exists()


def test_gates_of_sequences_reach_the_layers(tmp_path: Path, documents: TokenisedDocuments) -> None:
    """All documents have the first expert; the second must stay as it was."""
    config = HydraLoraConfig(num_experts=2, r=4, router_input="given", target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = run(tmp_path, documents, config).model
    weights = [p for name, p in model.named_parameters() if "hydralora_B" in name]
    assert weights
    for weight in weights:
        assert weight[:, :4].abs().sum() > 0
        assert weight[:, 4:].abs().sum() == 0


def test_a_model_is_split_only_between_several_processes(tmp_path: Path, plain: TokenisedDocuments) -> None:
    with pytest.raises(TrainingError, match="this is the only one: start it with torchrun"):
        run(tmp_path, plain, fsdp=True)


def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path, plain: TokenisedDocuments) -> None:
    model = run(tmp_path / "first", plain).model
    assert isinstance(model, PeftModel)
    with pytest.raises(TrainingError, match="a model that already has one"):
        train(model, small_tokenizer(), plain, tmp_path / "second", TrainingConfig(**SHORT), peft_config=LORA)


def test_cluster_loss_teaches_routers_the_clusters(tmp_path: Path) -> None:
    """Sums and reversals: the first layer sees tokens alone, most of which both have; the second sees what came before.

    Equal gates have a loss of log 2 = 0.69; the best that a layer without context can reach is 0.50.
    """
    from hydralora.gates.losses import cluster_loss
    from hydralora.gates.recording import record_gates

    rows = [{**row, "cluster": i % 2} for i, row in enumerate(small_documents())]
    documents = tokenise(rows, small_tokenizer())
    config = HydraLoraConfig(num_experts=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = run(tmp_path, documents, config, max_steps=60, learning_rate=0.05, cluster_weight=10.0).model.eval()
    batch = collate(documents.rows(range(len(documents))), 256)
    with torch.no_grad(), record_gates(model) as gates:
        answer_loss(model, batch)
    first, second = (
        cluster_loss({name: layer}, batch["cluster"], batch["attention_mask"]).item() for name, layer in gates.items()
    )
    assert 0.50 < first < 0.60
    assert second < 0.40


def test_balance_loss_evens_the_gates(tmp_path: Path, plain: TokenisedDocuments) -> None:
    from hydralora.gates.losses import balance_loss
    from hydralora.gates.recording import record_gates

    def imbalance(folder: str, weight: float) -> float:
        config = HydraLoraConfig(num_experts=3, target_modules=["q_proj"], task_type="CAUSAL_LM")
        model = run(tmp_path / folder, plain, config, max_steps=10, learning_rate=0.05, balance_weight=weight).model
        batch = collate(plain.rows(range(len(plain))), 256)
        with torch.no_grad(), record_gates(model.eval()) as gates:
            answer_loss(model, batch)
        return balance_loss(gates, batch["attention_mask"]).item()

    assert imbalance("with", 10.0) < imbalance("without", 0.0) / 2


def test_cluster_loss_needs_clusters(tmp_path: Path, plain: TokenisedDocuments) -> None:
    config = HydraLoraConfig(num_experts=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(TrainingError, match="cluster_weight needs documents with a cluster"):
        run(tmp_path, plain, config, cluster_weight=1.0)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (LORA, {}),
        (HydraLoraConfig(num_experts=2, r=4, target_modules="all-linear", task_type="CAUSAL_LM"), {}),
        (
            HydraLoraConfig(num_experts=2, r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
            {"balance_weight": 1.0, "cluster_weight": 1.0},
        ),
    ],
    ids=["lora", "hydralora", "routing losses"],
)
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, config: PeftConfig, weights: dict[str, float]) -> None:
    """Layers run again within the backward pass: on the same path, their gates recorded or not."""
    rows = [{**row, "cluster": i % 2} for i, row in enumerate(small_documents())]
    documents = tokenise(rows, small_tokenizer())
    options = {"max_steps": 2, "learning_rate": 0.01, **weights}
    one, other = (
        run(tmp_path / str(on), documents, config, gradient_checkpointing=on, **options).model.state_dict()
        for on in (False, True)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
