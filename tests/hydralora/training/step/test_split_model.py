"""A model split by FSDP2 in a group of one process: clipping, the chunked loss, and whole weights."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hydralora import HydraLoraConfig
from hydralora.data import collate
from hydralora.evaluation.answer_loss import answer_loss, logits_can_be_chunked, model_inputs
from hydralora.training import TrainingConfig
from hydralora.training.step.optimiser import clip_split
from hydralora.training.step.split_model import run_in_autocast, split_precision, whole_weights
from tests.hydralora.small import small_model

ROWS = [{"input_ids": [5, 6, 7, 8, 9], "answer_start": 2}, {"input_ids": [9, 3, 4], "answer_start": 1}]


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", store=dist.FileStore(str(Path(folder) / "store"), 1), rank=0, world_size=1)
        yield
        dist.destroy_process_group()


LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def adapted(split: bool, config: PeftConfig = LORA, dtype: torch.dtype = torch.float32) -> Any:
    model: Any = small_model().to(dtype)
    if split:
        mesh = init_device_mesh("cpu", (1,))
    model = get_peft_model(model, config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    if split:
        for layer in model.get_base_model().model.layers:
            fully_shard(layer, mesh=mesh)
        head = model.get_output_embeddings()
        if head.weight is not model.get_input_embeddings().weight:
            fully_shard(head, mesh=mesh, reshard_after_forward=False)
        fully_shard(model, mesh=mesh)
    return model


def test_a_split_model_has_the_loss_the_clipped_gradients_and_the_weights_of_a_whole_one() -> None:
    whole, split = adapted(False), adapted(True)
    batch = collate(ROWS, 0)
    expected = answer_loss(whole, batch)
    expected.backward()
    chunked = logits_can_be_chunked(split, batch)
    loss = answer_loss(split, batch, chunked=chunked)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    ours, theirs = ([p for p in model.parameters() if p.requires_grad] for model in (split, whole))
    torch.testing.assert_close(clip_split(ours, 0.5), nn.utils.clip_grad_norm_(theirs, 0.5))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.full_tensor(), other.grad)
    for parameters in (ours, theirs):
        torch.optim.AdamW(parameters, lr=0.1, fused=True).step()
    weights = whole_weights(split)
    assert weights.keys() == {name for name in whole.state_dict() if "lora" in name}
    torch.testing.assert_close(weights, {name: whole.state_dict()[name] for name in weights})


def test_a_split_output_layer_is_chunked() -> None:
    assert logits_can_be_chunked(adapted(True), collate(ROWS, 0))


def test_an_adapter_keeps_its_precision() -> None:
    config = TrainingConfig(max_steps=1, autocast=True)
    assert split_precision(config, trains_adapter=True) is None
    assert split_precision(config, trains_adapter=False).reduce_dtype == torch.float32


def bytes_kept_for_backward(model: Any) -> int:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**model_inputs(model, collate(ROWS, 0)))
    return sum(kept)


def test_a_split_adapter_in_autocast_keeps_as_much_for_the_backward_pass_as_a_whole_one() -> None:
    config = HydraLoraConfig(r=4, num_experts=2, target_modules="all-linear", task_type="CAUSAL_LM")
    whole, split = (adapted(split, config, torch.bfloat16) for split in (False, True))
    with torch.autocast("cpu", torch.bfloat16):
        expected = bytes_kept_for_backward(whole)
    without_autocast = bytes_kept_for_backward(split)
    run_in_autocast(split, "cpu")
    assert bytes_kept_for_backward(split) == expected < without_autocast
