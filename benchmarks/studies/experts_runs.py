"""One run of the study of label-free experts: an arm trained on a mix, and its loss on every held-out document."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import study_runs
import torch
from experts_mix import Ints, Mix
from numpy.typing import NDArray
from peft import get_peft_model
from study_runs import document_sums, fit, pack

from hydralora import HydraLoraConfig
from hydralora.base_model import load_base_model
from hydralora.evaluation.chunked_loss import can_chunk
from hydralora.training import TrainingConfig

TOKENS_PER_STEP = {"six": 8192, "exams": 4096, "flan": 4096, "wide": 8192, "skills": 4096}
HELD_OUT = ("validation", "test", "unseen")
TINY = "tiny"
TOKENS_PER_STEP_OF_PARTS = 4096  # of mixes that are parts of these
SHARED_RANK = 16
LORA_RANK = 28
LORA_PLUS_RATIO = 4.0
LARGE_VOCABULARY = 100_000  # from here on, evaluation takes smaller batches


def linear_sizes(model: torch.nn.Module) -> tuple[int, int]:
    """Inputs and outputs of all linear layers that get an adapter, summed."""
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.endswith("lm_head")]
    return sum(layer.in_features for layer in layers), sum(layer.out_features for layer in layers)


def expert_rank(num_experts: int, sizes: tuple[int, int], shared_rank: int = SHARED_RANK) -> int:
    """The largest rank of N experts beside the always-on LoRA that trains no more than the LoRA of `LORA_RANK`."""
    inputs, outputs = sizes
    return max(1, (LORA_RANK - shared_rank) * (inputs + outputs) // (inputs + num_experts * outputs))


@dataclass(frozen=True)
class Arm:
    """What is trained.

    Attributes:
        kind: "lora", "split" (an always-on LoRA beside N experts), "shared" (an always-on expert on the experts' A),
            "tag" (a LoRA, with the tag of the group in each prompt), "each" (a LoRA of the whole rank for each group),
            "balanced" (a LoRA whose loss counts all sources alike), "router" (HydraLoRA) or "full" (all weights).
        learning_rate: its peak.
        groups: of `Mix.labels`, that decide the expert or the tag of a document.
        held_out: groups for held-out documents; the first one counts. Default: `groups`.
        shared_rank: of the always-on LoRA of a split.
        ratio: rate of B over that of A (LoRA+; 1 is plain LoRA).
        shared_scale: factor of the always-on LoRA's scaling. Under Adam, 1 / c is the same as a rate of its B that is
            c times smaller.
    """

    kind: str
    learning_rate: float
    groups: str = ""
    held_out: tuple[str, ...] = ()
    shared_rank: int = SHARED_RANK
    ratio: float = LORA_PLUS_RATIO
    shared_scale: float = 1.0

    @property
    def name(self) -> str:
        """How records call it."""
        rank = f" shared_rank={self.shared_rank}" if self.shared_rank != SHARED_RANK else ""
        ratio = f" ratio={self.ratio:g}" if self.ratio != LORA_PLUS_RATIO else ""
        scale = f" shared_scale={self.shared_scale:g}" if self.shared_scale != 1 else ""
        return f"{self.kind}{f' by {self.groups}' if self.groups else ''}{rank}{ratio}{scale} lr={self.learning_rate:g}"

    def peft_config(self, num_groups: int, layers: tuple[int, int]) -> HydraLoraConfig:
        """The adapter for N groups, on layers of these `linear_sizes`. Alpha is twice the rank in all arms."""
        shared = self.shared_rank
        sizes: dict[str, Any] = {
            **{kind: {"r": LORA_RANK, "num_experts": 1} for kind in ("lora", "tag", "each", "balanced")},
            "router": {"r": 8, "num_experts": 6},
            "shared": {"r": 7, "num_experts": num_groups, "shared_expert": True, "router_input": "given"},
            "split": {
                "r": expert_rank(num_groups, layers, shared),
                "num_experts": num_groups,
                "shared_rank": shared,
                "shared_alpha": 2 * shared * self.shared_scale,
                "router_input": "given",
            },
        }[self.kind]
        return HydraLoraConfig(lora_alpha=2 * sizes["r"], target_modules="all-linear", task_type="CAUSAL_LM", **sizes)


@dataclass(frozen=True)
class Run:
    """An arm on a mix with a seed."""

    mix: str
    arm: Arm
    seed: int

    @property
    def key(self) -> str:
        return f"{self.mix} | {self.arm.name} | seed {self.seed}"


@dataclass(frozen=True)
class Budget:
    """How much of a mix a run takes. The defaults are the whole; smoke tests take less."""

    training: int | None = None
    held_out: int | None = None
    tokens_per_step: int | None = None


@cache
def load_mix(path: Path) -> Mix:
    """Read once in each process."""
    return Mix.load(path)


@cache
def tagged_mix(path: Path, groups: str) -> Mix:
    """With tags of these groups in the prompts."""
    mix = load_mix(path)
    tags = mix.source_tags if groups.startswith("source") else mix.group_tags
    return mix.with_tags(tags, mix.labels[groups])


def use_base(name: str, device: str) -> Any:
    """Load the base model of this process. "tiny" is a random one of two small layers, to try all steps on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if name == TINY:
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
        model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=49_152, **sizes)).to(device).eval().requires_grad_(False)
    else:
        model, _ = load_base_model(name, device=device, dtype=torch.bfloat16)
    study_runs.base_model = lambda device: model  # type: ignore[assignment]
    return model


def warm_up(
    folder: Path, device: str, base: str, load: Callable[[Path], Any] = load_mix, evaluation_tokens: int = 8192
) -> None:
    """Load what all runs of this process share; `load` reads the documents of a mix."""
    torch.set_num_threads(1)
    study_runs.LlamaRMSNorm.forward = study_runs._fused_norm
    large = use_base(base, device).config.vocab_size > LARGE_VOCABULARY
    study_runs.EVALUATION_TOKENS = min(4096, evaluation_tokens) if large else evaluation_tokens
    for path in sorted(folder.glob("*.npz")):
        load(path)


def execute(run: Run, folder: Path, device: str, budget: Budget = Budget()) -> dict[str, Any]:
    """Train and evaluate; the record of the run as JSON values."""
    started = time.perf_counter()
    path = folder / f"{run.mix}.npz"
    arm, mix = run.arm, load_mix(path)
    training, held_out = mix.indices("train")[: budget.training], _thinned(mix.indices(*HELD_OUT), budget.held_out)
    tokens_per_step = budget.tokens_per_step or TOKENS_PER_STEP.get(run.mix, TOKENS_PER_STEP_OF_PARTS)
    if arm.kind == "each":
        record, losses = _for_each_group(run, path, training, held_out, tokens_per_step // 2, device)
    else:
        model, record = _trained(run, path, training, tokens_per_step, device)
        record["training_seconds"] = round(time.perf_counter() - started, 2)
        losses = held_out_losses(model, path, arm, held_out, device)
    counts = (mix.lengths - mix.answer_starts)[held_out]
    return {
        "key": run.key,
        "mix": run.mix,
        "arm": arm.name,
        "seed": run.seed,
        **record,
        "loss": {name: _means(mix, held_out, sums, counts) for name, sums in losses.items()},
        "document_losses": {name: pack(sums) for name, sums in losses.items()},
        "documents": len(held_out),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _trained(run: Run, path: Path, training: Ints, tokens_per_step: int, device: str) -> tuple[Any, dict[str, Any]]:
    """The model of an arm after training on these documents, and what is to be recorded."""
    arm, mix = run.arm, load_mix(path)
    torch.manual_seed(run.seed)
    model: Any = copy.deepcopy(study_runs.base_model(device))
    if arm.kind == "full":
        model, experts, rank = model.float().requires_grad_(True), 0, 0
    else:
        grouped = arm.groups and arm.kind != "each"
        config = arm.peft_config(mix.n_groups(arm.groups) if grouped else 1, linear_sizes(model))
        model, experts, rank = get_peft_model(model, config), config.num_experts, config.r
    training_config = TrainingConfig(
        num_train_epochs=1,
        learning_rate=arm.learning_rate,
        tokens_per_step=tokens_per_step,
        learning_rate_ratios={"hydralora_B": arm.ratio},
        gradient_accumulation_steps=2,
        seed=run.seed,
    )
    documents: Any = tagged_mix(path, arm.groups) if arm.kind == "tag" else mix
    gates = arm.groups if arm.kind in ("split", "shared") else None
    weights = _balancing_weights(mix, training) if arm.kind == "balanced" else None
    chunked = can_chunk(model.get_output_embeddings())
    record = fit(model, documents, training, training_config, device, gates=gates, weights=weights, chunked=chunked)
    return model, {
        "experts": experts,
        "r": rank,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{name: record[name] for name in ("steps", "tokens", "padding")},
        "training_loss": record["losses"],
    }


def _for_each_group(
    run: Run, path: Path, training: Ints, held_out: Ints, tokens_per_step: int, device: str
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """A model for each group, each measured on the held-out documents that are told to be of its group."""
    mix, arm = load_mix(path), run.arm
    losses = {told: np.zeros(len(held_out), np.float32) for told in arm.held_out}
    records = []
    for group in np.unique(mix.labels[arm.groups][training]):
        own = training[mix.labels[arm.groups][training] == group]
        model, record = _trained(run, path, own, tokens_per_step, device)
        records.append(record)
        for told, sums in losses.items():
            rows = np.flatnonzero(mix.labels[told][held_out] == group)
            sums[rows] = document_sums(model, mix, held_out[rows], None, device)  # type: ignore[arg-type]
    record = {"experts": len(records), "r": LORA_RANK, "padding": records[0]["padding"]}
    return record | {name: sum(r[name] for r in records) for name in ("trainable", "steps", "tokens")}, losses


def _balancing_weights(mix: Mix, training: Ints) -> NDArray[np.float32]:
    """Weights of documents under which the answers of each source count alike; the mean over answer tokens is one."""
    tokens = np.bincount(mix.sources[training], (mix.lengths - mix.answer_starts)[training], len(mix.source_names))
    there = tokens > 0
    weights = np.divide(tokens.sum(), there.sum() * tokens, out=np.zeros_like(tokens), where=there)
    return weights[mix.sources].astype(np.float32)


def held_out_losses(model: Any, path: Path, arm: Arm, documents: Ints, device: str) -> dict[str, NDArray[np.float32]]:
    """Summed loss of each document; under each of the arm's groups where it takes groups from outside."""
    mix = load_mix(path)
    if arm.kind in ("lora", "balanced", "router", "full"):
        return {"": document_sums(model, mix, documents, None, device)}  # type: ignore[arg-type]
    losses: dict[str, NDArray[np.float32]] = {}
    first, *others = arm.held_out or (arm.groups,)
    for groups in (first, *others):
        changed = np.ones(len(documents), bool)
        if losses:
            losses[groups] = losses[first].copy()
            changed = (mix.labels[groups] != mix.labels[first])[documents]
        else:
            losses[groups] = np.zeros(len(documents), np.float32)
        if changed.any():
            data: Any = tagged_mix(path, groups) if arm.kind == "tag" else mix
            gates = None if arm.kind == "tag" else groups
            losses[groups][changed] = document_sums(model, data, documents[changed], gates, device)
    return losses


def _thinned(documents: Ints, number: int | None) -> Ints:
    if number is None:
        return documents
    return documents[np.linspace(0, len(documents) - 1, number).astype(int)]


def _means(mix: Mix, documents: Ints, sums: NDArray[np.float32], counts: Ints) -> dict[str, dict[str, float]]:
    """Part -> mean loss of an answer token over sources ("macro"), over tokens ("token"), and of each source."""
    found = {}
    for part in HELD_OUT:
        there = mix.parts[documents] == part
        if not there.any():
            continue
        sources = mix.sources[documents][there]
        loss, tokens = (np.bincount(sources, values[there], len(mix.source_names)) for values in (sums, counts))
        of_source = {mix.source_names[s]: float(loss[s] / tokens[s]) for s in np.flatnonzero(tokens)}
        found[part] = {"macro": float(np.mean(list(of_source.values()))), "token": float(loss.sum() / tokens.sum())}
        found[part] |= of_source
    return found
