"""Two processes over gloo: the same adapter as one process that sees both batches, saved once."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from hydralora import HydraLoraConfig

STEPS = 3


def base_model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=64, pad_token_id=0))


def adapted_model(shared_rank: int) -> PeftModel:
    options = {"r": 4, "shared_rank": shared_rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = HydraLoraConfig(init_weights=False, **options)
    base = base_model()
    torch.manual_seed(2)
    return get_peft_model(base, config)


def batches() -> torch.Tensor:
    """[steps, rank, row, length]"""
    return torch.randint(1, 64, (STEPS, 2, 2, 8), generator=torch.Generator().manual_seed(3))


def train(model: nn.Module, rows: torch.Tensor) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for batch in rows:
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def worker(rank: int, port: int, strategy: str, shared_rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        state_dict = STRATEGIES[strategy](adapted_model(shared_rank), batches()[:, rank])
        if rank == 0:
            adapted_model(shared_rank).save_pretrained(folder, state_dict=state_dict)
    finally:
        dist.destroy_process_group()


def train_ddp(model: PeftModel, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    train(DistributedDataParallel(model), rows)
    return model.state_dict()


def train_fsdp1(model: PeftModel, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """As accelerate does: PEFT's wrap policy, so that each adapter matrix is a unit of its own."""
    policy = fsdp_auto_wrap_policy(model)
    wrapped = FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=False, device_id=torch.device("cpu")
    )
    train(wrapped, rows)
    # Offloading to the CPU fails where parameters are there already, for PEFT's LoRA as well (torch 2.13).
    config = FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
    with FullyShardedDataParallel.state_dict_type(wrapped, StateDictType.FULL_STATE_DICT, config):
        return wrapped.state_dict()


def train_fsdp2(model: PeftModel, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    for layer in model.get_base_model().model.layers:
        fully_shard(layer)
    fully_shard(model)
    train(model, rows)
    return {key: value.full_tensor() for key, value in model.state_dict().items()}


STRATEGIES: dict[str, Any] = {"ddp": train_ddp, "fsdp1": train_fsdp1, "fsdp2": train_fsdp2}


@pytest.mark.slow
@pytest.mark.parametrize("shared_rank", [0, 3], ids=["experts", "split"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes(strategy: str, shared_rank: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, strategy, shared_rank, str(tmp_path)), nprocs=2)
    expected = adapted_model(shared_rank)
    train(expected, batches().flatten(1, 2))
    saved = PeftModel.from_pretrained(base_model(), tmp_path)
    for (name, value), other in zip(expected.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
