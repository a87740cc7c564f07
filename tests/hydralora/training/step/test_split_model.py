"""A model split by FSDP2 in a group of one process: clipping, the chunked loss, and whole weights."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hydralora.data import collate
from hydralora.evaluation.answer_loss import answer_loss, logits_can_be_chunked
from hydralora.training import TrainingConfig
from hydralora.training.step.optimiser import clip_split
from hydralora.training.step.split_model import split_precision, whole_weights
from tests.hydralora.small import small_model

ROWS = [{"input_ids": [5, 6, 7, 8, 9], "answer_start": 2}, {"input_ids": [9, 3, 4], "answer_start": 1}]


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", store=dist.FileStore(str(Path(folder) / "store"), 1), rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def adapted(split: bool) -> Any:
    model: Any = small_model()
    if split:
        mesh = init_device_mesh("cpu", (1,))
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
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
