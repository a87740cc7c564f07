"""Ranks of a training where there is one GPU: one of them alone, or all of them side by side.

- `join_alone`: torch's fake process group sends nothing, and a rank gathers its own part in place of the others' parts.
  Tensors have the shapes of a real run, so the memory is a rank's. The time is that of a step whose communication costs
  nothing. Losses and weights mean nothing.
- `share_gpu`: gloo sends between ranks on one GPU, which NCCL refuses. Losses and weights are those of a real run. The
  time means nothing.
"""

import math
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hydralora.training import loop

GATHER = ("all_gather_into_tensor", "all_gather_single")  # FSDP2 calls the second from torch 2.13 on
SCATTER = ("reduce_scatter_tensor", "reduce_scatter_single")
gathered: list[int] = []  # bytes of each tensor that a rank alone gathered


class Alone(DistributedDataParallel):
    """Keeps its own gradients, because torch's DDP does not take the fake group's answer for their sum."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_comm_hook(None, noop_hook)


def join_alone(ranks: int) -> None:
    """Become the first of so many ranks."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    nn.parallel.DistributedDataParallel = Alone
    loop.check_base_unchanged = lambda *_: None  # it would read copies of one part
    _replace(repeat_own_part, keep_own_part)


def share_gpu() -> None:
    """Join all ranks, each on the first GPU."""
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("cpu:gloo,cuda:gloo")
    DTensor.full_tensor = full_tensor
    _replace(gather, reduce_and_scatter)


def _replace(gather_with: Any, scatter_with: Any) -> None:
    for names, function in ((GATHER, gather_with), (SCATTER, scatter_with)):
        for name in names:
            setattr(dist, name, function)


def repeat_own_part(output_tensor: Tensor, input_tensor: Tensor, *_: Any, **__: Any) -> None:
    gathered.append(output_tensor.nbytes)
    for part in output_tensor.chunk(dist.get_world_size()):
        part.copy_(input_tensor)


def keep_own_part(output: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    """torch 2.11's fake group leaves this out, and gradients would be what was in memory before."""
    output.copy_(input[: len(output)])


def gather(output_tensor: Tensor, input_tensor: Tensor, group: Any = None, **_: Any) -> None:
    """Bytes, because gloo does not send every dtype."""
    parts = output_tensor.chunk(dist.get_world_size(group))
    dist.all_gather([part.view(torch.uint8) for part in parts], input_tensor.view(torch.uint8), group=group)


def reduce_and_scatter(output: Tensor, input: Tensor, op: Any, group: Any = None, **_: Any) -> None:
    """The sum or the mean, by an all-reduce."""
    ranks, total = dist.get_world_size(group), input.clone()
    dist.all_reduce(total, group=group)
    output.copy_(total.chunk(ranks)[dist.get_rank(group)])
    if op == dist.ReduceOp.AVG:
        output.div_(ranks)


def full_tensor(split: DTensor, **_: Any) -> Tensor:
    """`DTensor.full_tensor` of a tensor whose rows FSDP2 split."""
    ranks, own = dist.get_world_size(), split.to_local().detach()
    rows = math.ceil(len(split) / ranks)
    padded = own.new_zeros(rows, *own.shape[1:])
    padded[: len(own)] = own
    whole = padded.new_empty(ranks * rows, *own.shape[1:])
    gather(whole, padded)
    return whole[: len(split)]
