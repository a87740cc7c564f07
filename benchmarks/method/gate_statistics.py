"""What recorded gates and their statistics cost: training steps with and without, interleaved in one process.

    OMP_NUM_THREADS=1 python benchmarks/method/gate_statistics.py

A quarter of SmolLM2-135M (8 of its 30 layers and as much of its vocabulary), random weights, float32, frozen base,
forward and backward of 2 x 128 tokens. Steps of the four kinds take turns, so a busy machine slows all of them; ratios
are of their medians, in CPU seconds.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from layer_speed import SMOLLM2_135M, build

from hydralora import HydraLoraConfig, record_gates
from hydralora.gates.losses import balance_loss
from hydralora.gates.statistics import GateStatistics

RESULTS = Path(__file__).parents[1] / "results" / "gate_statistics.json"
BATCH, LENGTH = 2, 128
SHAPE = {**SMOLLM2_135M, "num_hidden_layers": 8, "vocab_size": 12288}
TARGETS: dict[str, Any] = {"q,v": ["q_proj", "v_proj"], "all-linear": "all-linear"}


class Step:
    """A training step in each of four kinds."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(model.config.vocab_size, (BATCH, LENGTH), generator=generator)
        self.mask = torch.ones_like(self.ids)
        self.mask[1, LENGTH // 2 :] = 0
        self.statistics = GateStatistics(num_groups=BATCH)

    def loss(self) -> torch.Tensor:
        loss: torch.Tensor = self.model(input_ids=self.ids, attention_mask=self.mask, labels=self.ids).loss
        return loss

    def plain(self) -> None:
        self.loss().backward()

    def recorded(self) -> None:
        with record_gates(self.model):
            self.loss().backward()

    def with_statistics(self) -> None:
        with record_gates(self.model) as gates:
            loss = self.loss()
            self.statistics.update(gates, self.mask, torch.arange(BATCH))
            loss.backward()

    def with_balance_loss(self) -> None:
        with record_gates(self.model) as gates:
            loss = self.loss()
            (loss + 0.01 * balance_loss(gates, self.mask)).backward()


def measure(targets: Any, num_experts: int, repeats: int) -> dict[str, float]:
    """Median CPU seconds of each kind of step."""
    config = HydraLoraConfig(num_experts=num_experts, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(build("cpu", torch.float32, **SHAPE), config).train()
    step = Step(model)
    seconds: dict[str, list[float]] = {"plain": [], "recorded": [], "with_statistics": [], "with_balance_loss": []}
    for repeat in range(repeats + 1):
        for kind, taken in seconds.items():
            model.zero_grad()
            started = time.process_time()
            getattr(step, kind)()
            if repeat:  # the first of each kind warms up
                taken.append(time.process_time() - started)
    return {kind: statistics.median(taken) for kind, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rows = []
    for name, targets in TARGETS.items():
        for num_experts in (3, 10):
            seconds = measure(targets, num_experts, repeats)
            ratios = {kind: round(value / seconds["plain"], 4) for kind, value in seconds.items()}
            rows.append({"targets": name, "num_experts": num_experts, "plain_cpu_seconds": seconds["plain"], **ratios})
            print(rows[-1], flush=True)
    result = {
        "rows": rows,
        "tokens": BATCH * LENGTH,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
