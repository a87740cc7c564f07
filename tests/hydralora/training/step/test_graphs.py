"""Steps that are recorded and replayed, with a stand-in for the GPU: replaying runs the recorded function again."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hydralora.base_model import packed_attention
from hydralora.data import TokenisedDocuments, collate_packed
from hydralora.data.row_sizes import fill_row
from hydralora.evaluation.answer_loss import answer_loss
from hydralora.training import TrainingConfig, TrainingError, loop
from hydralora.training.step import graphs
from tests.hydralora.data.test_row_sizes import sizes_of
from tests.hydralora.small import small_model
from tests.hydralora.training.step import test_packing
from tests.hydralora.training.step.test_packing import GATED, PACKABLE, adapted, documents, trained

# On a GPU these operations wait for a value on the host, and a graph cannot hold them.
WAITING = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.equal,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten.nonzero,
    torch.ops.aten.unique_consecutive,
}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        assert function.overloadpacket not in WAITING
        if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
            assert all(index is None or index.dtype != torch.bool for index in arguments[1])
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("method", sorted({*PACKABLE} - {"adalora", "full"}))
def test_a_micro_batch_never_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    model = adapted(method)
    rows = documents().rows(range(7))
    if method not in GATED:
        rows = [{name: value for name, value in row.items() if name != "expert_gates"} for row in rows]
    batch = fill_row(collate_packed(rows), sizes_of([[*range(7)]]))
    monkeypatch.setattr(packed_attention, "_varlen", lambda query, key, value, *_: query + key.mean() + value.mean())
    with packed_attention.attention_over_bounds(model.get_base_model()), NoWaiting():
        answer_loss(model, batch, chunked=True).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


class StandIn:
    """Records by keeping the function; counts what happens."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        result = torch.zeros(())

        def replay() -> Tensor:
            self.replayed += 1
            return result.copy_(run())

        return replay


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Graphs on CPUs, whose micro-batches take half of the time."""
    found = StandIn()
    seconds = iter([1.0, 0.5])
    monkeypatch.setattr(graphs, "Capture", lambda: found)
    monkeypatch.setattr(graphs, "run_time", lambda run: (run(), *[next(seconds)] * 2))
    monkeypatch.setattr(loop, "graphs_refusal", lambda *_, **__: None)
    return found


OPTIONS: dict[str, Any] = {"max_steps": 4, "tokens_per_step": 200, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("method", ["hydralora", "hydralora_sequence", "hydralora_split", "lora_r8", "full"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_training_with_graphs_ends_where_one_without_does(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, method: str, accumulation: int
) -> None:
    options = {**OPTIONS, "gradient_accumulation_steps": accumulation, "eval_steps": 2}
    graphed, after = trained(tmp_path / "graphed", method, True, **options)
    monkeypatch.undo()
    plain, before = trained(tmp_path / "plain", method, True, **options)
    for name, parameter in plain.items():
        assert (graphed[name] - parameter).norm() <= 2e-2 * parameter.norm() + 1e-6, name
    assert before.record["cuda_graphs"]["graphs"] == 0
    use = after.record["cuda_graphs"]
    assert use["reason"] is None
    assert use["graphs"] == stand_in.recorded > 0
    assert 0 < stand_in.replayed <= 4 * accumulation - 3
    losses = [r.held_out_after.loss_sums for r in (before, after)]
    assert abs(losses[1] - losses[0]).max() <= 2e-3 * losses[0].max()


def test_a_step_that_cannot_be_recorded_is_launched(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "Capture", lambda: refuse)
    graphed, after = trained(tmp_path / "graphed", "hydralora", True, **OPTIONS)
    assert after.record["cuda_graphs"]["reason"] == (
        "a step could not be recorded (RuntimeError: operation not permitted when stream is capturing)"
    )
    with pytest.raises(TrainingError, match="cuda_graphs: true, but a step could not be recorded"):
        trained(tmp_path / "required", "hydralora", True, cuda_graphs=True, **OPTIONS)
    monkeypatch.undo()
    plain, _ = trained(tmp_path / "plain", "hydralora", True, **OPTIONS)
    for name, parameter in plain.items():
        assert (graphed[name] - parameter).norm() <= 2e-2 * parameter.norm() + 1e-6, name


def test_nothing_is_recorded_where_the_gpu_is_the_limit(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "run_time", lambda run: (run(), 1.0, 1.2))
    _, after = trained(tmp_path, "hydralora", True, cuda_graphs="auto", **OPTIONS)
    assert after.record["cuda_graphs"]["reason"] == (
        "the GPU is the limit: launches took 1.0000 s, and their kernels 1.2000 s"
    )
    assert stand_in.recorded == 0


def test_a_graph_with_other_gradients_is_dropped(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that adds its gradients twice; with a launched micro-batch beside it, the training goes on rightly."""

    def twice(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: (run(), run())[1]

    monkeypatch.setattr(graphs, "Capture", lambda: twice)
    wrong, after = trained(tmp_path / "auto", "hydralora", True, cuda_graphs="auto", **OPTIONS)
    assert after.record["cuda_graphs"]["reason"] == (
        "gradients of a replayed micro-batch differ from launched ones by 100.0%"
    )
    seconds = iter([1.0, 0.5])
    monkeypatch.setattr(graphs, "run_time", lambda run: (run(), *[next(seconds)] * 2))
    with pytest.raises(TrainingError, match=r"differ from launched ones by 100.0%. Set cuda_graphs: false"):
        trained(tmp_path / "required", "hydralora", True, cuda_graphs=True, **OPTIONS)
    monkeypatch.undo()
    plain, _ = trained(tmp_path / "plain", "hydralora", True, **OPTIONS)
    for name, parameter in plain.items():
        assert (wrong[name] - parameter).norm() <= 2e-2 * parameter.norm() + 1e-6, name


def test_graphs_that_are_not_faster_are_dropped(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "run_time", lambda run: (run(), 1.0, 1.0))
    _, after = trained(tmp_path / "auto", "hydralora", True, **OPTIONS)
    assert after.record["cuda_graphs"]["reason"] == "a replayed micro-batch took 1.0000 s, a launched one 1.0000 s"
    assert stand_in.replayed == 1
    _, after = trained(tmp_path / "required", "hydralora", True, cuda_graphs=True, **OPTIONS)
    assert after.record["cuda_graphs"]["reason"] is None


@pytest.mark.parametrize(
    ("config", "packed", "processes", "reason"),
    [
        ({}, False, 1, "does not pack"),
        ({}, True, 2, "several processes"),
        ({"balance_weight": 0.1}, True, 1, "losses on gates"),
        ({"gradient_checkpointing": True}, True, 1, "gradient_checkpointing"),
        ({"cuda_graphs": False}, True, 1, "switched off"),
    ],
)
def test_what_cannot_be_recorded_says_why(config: dict[str, Any], packed: bool, processes: int, reason: str) -> None:
    class OnGpu:
        device = torch.device("cuda")

    settings = TrainingConfig(**{"max_steps": 1, "cuda_graphs": "auto", **config})
    assert reason in str(graphs.graphs_refusal(OnGpu(), None, settings, packed=packed, processes=processes))
    if "cuda_graphs" not in config:
        required = TrainingConfig(**{"max_steps": 1, "cuda_graphs": True, **config})
        with pytest.raises(TrainingError, match=f"cuda_graphs: true, but .*{reason}"):
            graphs.graphs_refusal(OnGpu(), None, required, packed=packed, processes=processes)


def test_on_a_cpu_there_are_none(tmp_path: Path) -> None:
    _, result = trained(tmp_path, "hydralora", True, cuda_graphs="auto", **OPTIONS)
    assert result.record["cuda_graphs"] == {
        "graphs": 0,
        "reason": "graphs need a CUDA device, and the model is on cpu",
    }


class Columns:
    """What `TokenisedDocuments` asks of a data set, for GPU machines without the package `datasets`."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns, self.column_names = columns, list(columns)

    def __len__(self) -> int:
        return len(self.columns["length"])

    def __getitem__(self, key: str | list[int]) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: [values[row] for row in key] for name, values in self.columns.items()}

    def remove_columns(self, removed: str) -> "Columns":
        return Columns({name: values for name, values in self.columns.items() if name != removed})

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        yield self[list(range(len(self)))]


def ready_made(n: int = 12) -> TokenisedDocuments:
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, 60, n).tolist()
    columns: dict[str, list[Any]] = {
        "input_ids": [draw.integers(1, 250, length) for length in lengths],
        "answer_start": [length // 2 for length in lengths],
        "length": lengths,
        "source": [str(row % 3) for row in range(n)],
        "expert_gates": np.eye(3)[np.arange(n) % 3].tolist(),
    }
    return TokenisedDocuments(Columns(columns), "plain", 64, 0, 0, 0)  # type: ignore[arg-type]


def test_documents_that_are_ready_made_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(test_packing, "documents", ready_made)
    for method in ("hydralora_sequence", "lora_r8"):
        _, result = trained(tmp_path / method, method, True, **OPTIONS)
        assert result.record["steps"] == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs need a GPU")
@pytest.mark.parametrize("method", ["hydralora", "hydralora_sequence", "hydralora_split", "lora_r8"])
def test_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(test_packing, "small_model", lambda: small_model().to("cuda", torch.bfloat16))
    monkeypatch.setattr(test_packing, "documents", ready_made)
    options = {**OPTIONS, "max_steps": 8, "autocast": True}
    graphed, after = trained(tmp_path / "graphed", method, True, **options, cuda_graphs=True)
    plain, before = trained(tmp_path / "plain", method, True, **options, cuda_graphs=False)
    assert after.record["cuda_graphs"]["graphs"] > 0
    for name, parameter in plain.items():
        assert (graphed[name] - parameter).norm() <= 5e-2 * parameter.norm() + 1e-5, name
    losses = [r.held_out_after.loss_sums for r in (before, after)]
    assert abs(losses[1] - losses[0]).max() <= 1e-2 * losses[0].max()
