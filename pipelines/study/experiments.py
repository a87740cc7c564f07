"""The runs that the paper's tables and figures need. The configuration assigns sources to their domains."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines.training.losses import BASE

# Domains of one corpus each, as in the paper: Dolly, medical questions, legal tasks, programs, arithmetic.
GENERAL, MEDICAL, LAW, CODE, MATH = SINGLE = ("general", "medical", "law", "code", "math")
MIXED = "mixed"
"""The domain of many tasks: the ten Flan clusters of Table 3."""
NUM_CLUSTERS: Mapping[str, int] = {**dict.fromkeys(SINGLE, 3), MIXED: 10}
"""Number of K-means clusters of a domain's documents; LoraHub trains one LoRA on each."""


@dataclass(frozen=True)
class Experiment:
    """Methods, domains and values of N; every combination is trained."""

    methods: tuple[str, ...]
    domains: tuple[str, ...]
    num_experts: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One run of an experiment, without its seed and learning rate."""

    method: str
    domain: str
    num_experts: int


# The values of N are the paper's: 3 on single corpora (its mean number of B matrices), 10 on the ten clusters.
_TABLE_2 = (
    *("full", "prompt_tuning", "p_tuning", "ia3", "prefix_tuning", "adalora"),
    *("lora_r8", "lora_r16", "lora_r32", "lora_split_8x4", "hydralora"),
)
_SPLITS = ("lora_r8", "lora_r16", "lora_r32", "lora_split_16x2", "lora_split_8x4", "lora_split_4x8")
_ABLATIONS = ("without_moe", "without_gate", "without_hydra", "hydralora")
EXPERIMENTS: Mapping[str, Experiment] = {
    "table_1": Experiment(_SPLITS, (GENERAL,), (3,)),
    "table_2": Experiment(_TABLE_2, SINGLE, (3,)),
    "table_3": Experiment(("lora_r8", "lorahub", "lora_moe", "hydralora"), (MIXED,), (10,)),
    "table_4": Experiment(("lora_r8", "lora_r16", "lora_r32", "lora_split_8x4", "hydralora"), (MATH,), (3,)),
    "table_5": Experiment(_ABLATIONS, (GENERAL, MEDICAL, LAW), (3,)),
    "figure_2": Experiment(("lora_matched", "hydralora", "full"), (*SINGLE, MIXED), (3,)),
    "figure_5": Experiment(("hydralora",), (GENERAL,), (2, 3, 4, 5, 6, 8)),
}
"""Table 4 lists costs, which are measured separately. Its runs are those of Table 2."""

TRAINED_AS: Mapping[str, str] = {
    "lora_split_16x2": "lora_r32",
    "lora_split_8x4": "lora_r32",
    "lora_split_4x8": "lora_r32",
    "without_moe": "lora_r8",
}
"""Rows that are equivalent to another row in parameters and training steps; `hydralora.methods` explains why."""


def planned_cells(names: Iterable[str], domains: Iterable[str]) -> list[Cell]:
    """The cells that some experiments need on the available domains, without repetition, plus the base model."""
    there = list(domains)
    cells = [Cell(BASE, domain, 3) for domain in there]  # the base model has no experts, so any N will do
    for name in names:
        experiment = EXPERIMENTS[name]
        cells += [
            Cell(TRAINED_AS.get(method, method), domain, n)
            for domain in experiment.domains
            if domain in there
            for n in experiment.num_experts
            for method in experiment.methods
        ]
    return list(dict.fromkeys(cells))
