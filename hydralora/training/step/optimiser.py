"""AdamW with a learning rate for each kind of parameter, and the schedule of the rate."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hydralora.training.config import TrainingConfig, TrainingError


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with one parameter group for each learning rate.

    Raises:
        TrainingError: If no parameter requires a gradient.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ratios = [ratio for fragment, ratio in config.learning_rate_ratios.items() if fragment in name]
            groups.setdefault(ratios[0] if ratios else 1.0, []).append(parameter)
    if not groups:
        raise TrainingError("Expected parameters to train, got a model with none that requires a gradient")
    # With fsdp the parameters are still on the CPU here.
    splits_on_gpu = config.fsdp and torch.cuda.is_available()
    on_gpu = splits_on_gpu or all(parameter.is_cuda for group in groups.values() for parameter in group)
    return torch.optim.AdamW(
        [{"params": group, "lr": config.learning_rate * ratio} for ratio, group in groups.items()],
        weight_decay=config.weight_decay,
        # One kernel for all parameters on GPUs. On CPUs torch's default gives the same bits as earlier versions.
        fused=True if on_gpu else None,
    )


def schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then `config.lr_scheduler_type`: cosine or linear decay to 0, or constant.

    Unlike in transformers, the first step does not have rate 0, because that would waste a step of a short budget.
    """
    warmup = math.ceil(config.warmup_ratio * num_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, num_steps - warmup)
        return {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[
            config.lr_scheduler_type
        ]

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def clip_split(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradients of parameters that are split between processes (DTensors) to a norm, and return the norm [].

    torch's own clipping of DTensors takes some 20 us for each of them, and its norm is a DTensor too. Here each process
    works on its own parts, and only one number is summed over processes.
    """
    split: list[Any] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [gradient.to_local() for gradient in split]
    total = torch.stack(torch._foreach_norm(parts)).square().sum()
    dist.all_reduce(total, group=split[0].device_mesh.get_group())
    norm = total.sqrt()
    torch._foreach_mul_(parts, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
