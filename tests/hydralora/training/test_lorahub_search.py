"""LoraHub: the composition against its formula, the search against a case it must solve, and a run end to end."""

import json
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import hydralora.training.lorahub_search
from hydralora.data import TokenisedDocuments, tokenise
from hydralora.evaluation import evaluate_documents
from hydralora.training import Progress, RunOptions, TrainingConfig, TrainingError, TrainingResult
from hydralora.training.lorahub import apportion, train_lorahub
from hydralora.training.lorahub_search import compose_lorahub, minimize
from tests.hydralora.small import small_documents, small_model, small_tokenizer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
SHORT = TrainingConfig(max_steps=7, tokens_per_step=128, gradient_accumulation_steps=2, learning_rate=0.02)


@pytest.fixture
def documents() -> TokenisedDocuments:
    """Sums are cluster 0, reversals cluster 3; there is none between them."""
    rows = [{**row, "cluster": 3 * (i % 2)} for i, row in enumerate(small_documents())]
    return tokenise(rows, small_tokenizer())


def save_lora(folder: Path, seed: int, **options: Any) -> Path:
    """A LoRA with random A and B."""
    torch.manual_seed(seed)
    config = LoraConfig(**{**LORA.to_dict(), "init_lora_weights": False, **options})
    model = get_peft_model(small_model(), config)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def run(folder: Path, documents: TokenisedDocuments, **options: Any) -> TrainingResult:
    arguments: dict[str, Any] = {"peft_config": LORA, "budget": 12, **options}
    return train_lorahub(small_model(), small_tokenizer(), documents, folder, SHORT, **arguments)


def test_composed_adapter_is_the_sums_of_a_and_of_b(tmp_path: Path, documents: TokenisedDocuments) -> None:
    folders = [save_lora(tmp_path / str(seed), seed) for seed in range(3)]
    adapted, result = compose_lorahub(small_model(), folders, documents, budget=10)
    adapted.save_pretrained(tmp_path / "out", save_embedding_layers=False)
    assert result.evaluations == 11  # the budget, and once more for the loss of what was chosen
    assert np.abs(result.weights).max() <= 1.5
    parts = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    composed = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert composed.keys() == parts[0].keys()
    for name, value in composed.items():
        expected = sum(weight * part[name] for weight, part in zip(result.weights, parts, strict=True))
        torch.testing.assert_close(value, expected)
    plain = PeftModel.from_pretrained(small_model(), tmp_path / "out").eval()  # what any user of PEFT does
    assert evaluate_documents(plain, documents, pad_token_id=0).mean == pytest.approx(result.loss, rel=1e-6)


def test_search_finds_the_lora_that_helps(
    tmp_path: Path, documents: TokenisedDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is least where the first LoRA has weight 1 and the second none; numpy's state does not matter."""
    folders = [save_lora(tmp_path / str(seed), seed) for seed in range(2)]
    first = load_file(folders[0] / "adapter_model.safetensors")
    name = next(iter(first))

    def distance(model: PeftModel, examples: TokenisedDocuments, pad_token_id: int) -> SimpleNamespace:
        value = dict(model.named_parameters())[name.replace(".weight", ".default.weight")]
        return SimpleNamespace(mean=float((value - first[name]).square().mean() / first[name].square().mean()))

    monkeypatch.setattr(hydralora.training.lorahub_search, "evaluate_documents", distance)
    weights = []
    for state in range(2):
        np.random.seed(state)  # noqa: NPY002 (what must not matter)
        _, result = compose_lorahub(small_model(), folders, documents, budget=40)
        weights.append(result.weights)
    assert weights[0] == pytest.approx([1.0, 0.0], abs=0.1)
    assert weights[0] == weights[1]


@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_outlives_the_search(fails: bool) -> None:
    """nevergrad's would keep the process from ending."""

    def loss(weights: Sequence[float]) -> float:
        if fails:
            raise MemoryError
        return float(np.square(np.asarray(weights) - 0.3).sum())

    before = set(threading.enumerate())
    with pytest.raises(MemoryError) if fails else nullcontext():
        assert np.allclose(minimize(loss, 3, 40, seed=0), 0.3, atol=0.05)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_a_run_leaves_what_other_methods_leave(tmp_path: Path, documents: TokenisedDocuments) -> None:
    seen: list[Progress] = []
    result = run(tmp_path, documents, options=RunOptions(held_out=documents, progress=seen.append))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "components", "curve.jsonl", "run.json",
    }  # fmt: skip
    record = json.loads((tmp_path / "run.json").read_text())
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    hub = record["lorahub"]
    assert hub["adapters"] == ["cluster-0", "cluster-3"]
    assert record["steps"] == sum(hub["steps"]) == SHORT.max_steps
    assert record["tokens"] == sum(hub["tokens"]) == curve[-1]["tokens"] == seen[-1].tokens
    assert [line["step"] for line in curve] == list(range(1, 8))
    assert (seen[-1].step, seen[-1].num_steps) == (7, 7)
    of_one = 2 * (2 * 4 * 32 + 4 * 32 + 4 * 16)
    assert record["parameters"]["trainable"] == 2 * of_one
    assert hub["saved_parameters"] == of_one
    assert record["reload_difference"] == 0
    assert record["seconds"] > hub["search_seconds"]
    assert hub["examples"] == 10
    assert result.held_out_after is not None
    assert record["held_out"]["after"]["all"] < record["held_out"]["before"]["all"]


@pytest.mark.slow
def test_a_killed_run_continues(tmp_path: Path, documents: TokenisedDocuments, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", documents)
    with monkeypatch.context() as patch:
        patch.setattr("hydralora.training.lorahub.compose_lorahub", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "killed", documents)
    with pytest.raises(TrainingError, match=r"another run|another budget"):
        run(tmp_path / "killed", documents, budget=13)
    with monkeypatch.context() as patch:
        patch.setattr("hydralora.training.lorahub.train", lambda *_, **__: pytest.fail("trained again"))
        run(tmp_path / "killed", documents)
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_is_refused(
    tmp_path: Path,
    documents: TokenisedDocuments,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = tokenise(small_documents(), small_tokenizer())
    with pytest.raises(TrainingError, match="the documents have no column `cluster`"):
        run(tmp_path / "a", plain)
    with pytest.raises(TrainingError, match="all documents are of cluster 3"):
        run(tmp_path / "b", documents.take(range(1, 24, 2)))
    folders = [save_lora(tmp_path / "r4", 0), save_lora(tmp_path / "r8", 0, r=8)]
    with pytest.raises(TrainingError, match=r"differ in \['r'\]"):
        compose_lorahub(small_model(), folders, documents)
    with pytest.raises(TrainingError, match="two LoRAs or more to compose, got 1"):
        compose_lorahub(small_model(), folders[:1], documents)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install nevergrad"):
        run(tmp_path / "c", documents)


def test_steps_are_shared_out() -> None:
    assert apportion(10, [3, 5, 2]) == [3, 5, 2]
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(10, [98, 1, 1]) == [8, 1, 1]
    assert apportion(2, [5, 3, 1]) == [1, 1, 1]
