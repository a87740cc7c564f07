"""Documents, models and adapters that the benchmarks of whole training steps share: LLaMA2-7B's shapes and others.

Random weights in bfloat16 cost what trained ones cost. Needs neither `datasets` nor a tokenizer.
"""

import dataclasses
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # the same for every row

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from hydralora import HydraLoraConfig
from hydralora.data import TokenisedDocuments

TOKENS_PER_STEP = 8192
MICRO_BATCHES = 2
FULL_ROW = 4096
EXPERTS = 6
LEARNING_RATE = 1e-4
FIRST_STEPS = 3  # compile and fill caches; not counted


@dataclasses.dataclass(frozen=True)
class Row:
    """One training to measure.

    Attributes:
        name: size, documents, and what trains.
        kind: "stock" (transformers and PEFT), "ours", or "losses" (fast steps against plain ones, three seeds).
        adapter: "lora" (PEFT's), "one" (LoRA through our layer), "hydra" (a router over 3), "split" (a shared LoRA
            and an expert for each of six groups).
        r: rank of LoRA, and of an expert.
        size: "7B", "135M", or "embedded" for the trained weights of the embedded base model.
        full: rows of 4,096 tokens, all of them answers, in place of the mixed documents.
        liger, packing: fused kernels, and packed rows (ours).
        micro_batches: of a step.
        batch: documents of a micro-batch (stock).
        checkpointing, offloading: of activations.
        graphs: CUDA graphs of micro-batches; true keeps them even if they are not faster.
    """

    name: str
    kind: str
    adapter: str = "lora"
    r: int = 8
    size: str = "7B"
    full: bool = False
    liger: bool = True
    packing: bool = True
    micro_batches: int = MICRO_BATCHES
    batch: int = 24
    checkpointing: bool = False
    offloading: bool = False
    graphs: bool | str = False


class Columns:
    """What `TokenisedDocuments` asks of a data set, over lists in memory."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: str | list[int]) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: [values[i] for i in key] for name, values in self._columns.items()}

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        for begin in range(0, len(self), batch_size):
            yield self[list(range(begin, min(begin + batch_size, len(self))))]


def documents(path: Path, full: bool, with_gates: bool) -> TokenisedDocuments:
    """The mixed documents, or rows of `FULL_ROW` tokens made of them."""
    with np.load(path) as saved:
        tokens, lengths = saved["tokens"].astype(np.int64), saved["lengths"].astype(np.int64)
        starts, sources = saved["answer_start"].astype(np.int64), saved["source"].astype(np.int64)
    ends = lengths.cumsum()
    if full:
        count = len(tokens) // FULL_ROW
        order = np.random.default_rng(0).permutation(len(lengths))
        mixed = np.concatenate([tokens[ends[i] - lengths[i] : ends[i]] for i in order])
        rows = mixed[: count * FULL_ROW].reshape(count, FULL_ROW).tolist()
        starts, sources = np.ones(count, dtype=np.int64), np.arange(count) % EXPERTS
    else:
        rows = [tokens[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]
    columns: dict[str, list[Any]] = {
        "input_ids": rows,
        "answer_start": starts.tolist(),
        "length": [len(row) for row in rows],
        "source": [str(source) for source in sources],
    }
    if with_gates:
        columns["expert_gates"] = np.eye(EXPERTS)[sources].tolist()
    return TokenisedDocuments(Columns(columns), "plain", FULL_ROW if full else 384, 0, 0, 0)  # type: ignore[arg-type]


def base_model(size: str) -> Any:
    """Random weights in bfloat16, drawn on the GPU."""
    shapes: dict[str, Any] = {
        "7B": {},  # transformers' defaults are LLaMA2-7B's
        "135M": {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
        "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    }[size]
    config = LlamaConfig(vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2, **shapes)
    config.max_position_embeddings = 2 * FULL_ROW
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    # Drawn as the others: where a row begins with it, zeros would stay zeros and gradients of norms overflow.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=config.initializer_range)
    model.name_or_path = f"random {size}"
    return model.requires_grad_(False).eval()


def layer_weights(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.model.layers.parameters() if parameter.dim() == 2)


class Tokenizer:
    """All that a training asks of one."""

    pad_token_id = eos_token_id = 2


def adapter(row: Row) -> Any:
    from peft import LoraConfig

    common: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", "r": row.r}
    common["lora_alpha"] = 2 * row.r
    if row.adapter == "lora":
        return LoraConfig(**common)
    if row.adapter == "one":
        return HydraLoraConfig(**common, num_experts=1)
    if row.adapter == "hydra":
        return HydraLoraConfig(**common, num_experts=3)
    fields = {field.name for field in dataclasses.fields(HydraLoraConfig)}
    shared = {"shared_rank": row.r} if "shared_rank" in fields else {"shared_expert": True}
    return HydraLoraConfig(**common, num_experts=EXPERTS, router_input="given", **shared)


def speed(seconds: Sequence[float], tokens: Sequence[int], weights: int) -> dict[str, Any]:
    """From the times at which steps were logged, and the real tokens of each.

    A step is logged a step late on GPUs, and the last one at once: the last interval is no step.
    """
    took = np.diff(seconds)[FIRST_STEPS - 1 : -1]
    counted = np.array(tokens[FIRST_STEPS : FIRST_STEPS + len(took)])
    per_second = float(counted.sum() / took.sum())
    return {
        "tokens_per_second": round(per_second, 1),
        "tokens_per_second_median_step": round(statistics.median(counted / took), 1),
        "tflops": round(4 * weights * per_second / 1e12, 1),
        "median_step_s": round(statistics.median(took), 4),
        "steps_s": [round(value, 4) for value in took.tolist()],
    }
