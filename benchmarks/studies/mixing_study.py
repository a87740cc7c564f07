"""Which mixture of corpora should a run read? Rules, and a search with proxy runs, against proportional sampling.

    OMP_NUM_THREADS=1 python benchmarks/studies/mixing_data.py STATE                       # once, on a CPU
    python benchmarks/studies/mixing_study.py STATE --minutes 6 --workers 4                # again until nothing is left
    python benchmarks/studies/mixing_summary.py STATE benchmarks/results/mixing_study.json

All arms read the same number of tokens, that of the training documents: "proportional" reads each document once, as
the product does by default; "temperature" samples by size ** .5, "equal" all corpora alike, "capped" by size with a
largest share of 1.5 / corpora. "searched" is the idea of CLIMB (arXiv 2504.13161): proxies of a third of the documents
and tokens are trained on sampled mixtures, Gaussian processes learn their losses, the next mixtures are among those
that these find best, twice, and the arm takes the best of all. The search sees validation documents only.

Two losses of held-out answers count. "macro" averages over corpora. "token" weighs each corpus with its share of answer
tokens among the training documents, so it is the loss on documents like these. The search maximises the smaller of the
two gains over "proportional".

Decided before the first run: a job for the search is worth its code if "searched" has less of both test losses than
"proportional" on both mixes (95% intervals below 0), and none of the three rules has.
"""

import argparse
import copy
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import study_runs
import torch
from experts_queue import add_arguments, run_all
from experts_runs import TINY, Arm, linear_sizes, warm_up
from mixing_data import NAMES, PROXY, take
from numpy.typing import NDArray
from peft import get_peft_model
from study_data import Ints, StudyData
from study_runs import document_sums, fit, load_data, pack

from hydralora.data.mixing import mixed_order, source_shares
from hydralora.training import TrainingConfig

RATES = (5e-4, 1e-3, 2e-3)  # of the LoRA (LoRA+ with ratio 4); chosen for "proportional", used by all arms
PROXY_RATE = 1e-3
SEEDS = (1, 2, 3, 4, 5)
TOKENS_PER_STEP = {False: 4096, True: 2048}  # of arms, of proxies
ROUNDS = (16, 8, 8)  # proxies of each mix
CANDIDATES = 4000
BEST_CANDIDATES = 40  # of which the mixtures of the next round are drawn
HELD_OUT = ("validation", "test")
MOST_TOKENS = 8192  # of a pass with padding
RULES: dict[str, dict[str, float]] = {"temperature": {"temperature": 2.0}, "equal": {"temperature": 1e9}, "capped": {}}
ARMS = ("proportional", *RULES, "searched")

Floats = NDArray[np.float64]
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """A LoRA trained on a mixture: shares of the corpora of `NAMES`, or none to read each document once."""

    mix: str
    arm: str
    shares: tuple[float, ...]
    rate: float
    seed: int

    @property
    def key(self) -> str:
        shares = "" if self.arm in ("proportional", *RULES) else " ".join(f"{share:.4f}" for share in self.shares)
        return f"{self.mix} | {self.arm} {shares} | lr={self.rate:g} | seed {self.seed}"


def execute(run: Run, folder: Path, device: str, smoke: bool) -> dict[str, Any]:
    """Train and evaluate; the record of the run as JSON values."""
    started = time.perf_counter()
    data = load_data(folder / f"{run.mix}.npz")
    if smoke:
        few = [np.flatnonzero(data.sources == source)[::40] for source in np.unique(data.sources)]
        data = take(data, np.concatenate(few))
    training = np.flatnonzero(data.parts == "train")
    held_out = np.flatnonzero(np.isin(data.parts, HELD_OUT))
    torch.manual_seed(run.seed)
    arm = Arm("lora", run.rate)
    base = study_runs.base_model(device)
    model = get_peft_model(copy.deepcopy(base), arm.peft_config(1, linear_sizes(base)))
    config = TrainingConfig(
        max_tokens=int(data.lengths[training].sum()),
        learning_rate=run.rate,
        tokens_per_step=TOKENS_PER_STEP[run.mix.endswith(PROXY)],
        learning_rate_ratios={"hydralora_B": arm.ratio},
        gradient_accumulation_steps=1,
        seed=run.seed,
    )
    order = _order(run, data, training)
    record = fit(model, data, training, config, device, order=order, most_tokens=MOST_TOKENS, chunked=True)
    sums = document_sums(model, data, held_out, None, device)
    return {
        "key": run.key,
        "mix": run.mix,
        "arm": run.arm,
        "shares": run.shares,
        "rate": run.rate,
        "seed": run.seed,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{name: record[name] for name in ("steps", "tokens", "padding")},
        "loss": {"": {p: losses(data, held_out, sums, p) for p in HELD_OUT if (data.parts[held_out] == p).any()}},
        "document_losses": "" if run.mix.endswith(PROXY) else pack(sums),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _order(run: Run, data: StudyData, training: Ints) -> Iterator[int] | None:
    if not run.shares:
        return None
    names = [f"{source:02d}" for source in range(len(run.shares))]
    sources = [names[source] for source in data.sources[training]]
    return mixed_order(sources, dict(zip(names, run.shares, strict=True)), run.seed)


def of_corpora(data: StudyData, part: str, values: Any) -> Floats:
    """Sums of values of the documents of a part, by corpus."""
    rows = data.parts == part
    return np.bincount(data.sources[rows], np.asarray(values)[rows], int(data.sources.max()) + 1)


def token_weights(data: StudyData) -> Floats:
    """Each corpus's share of the answer tokens among training documents."""
    tokens = of_corpora(data, "train", data.lengths - data.answer_starts)
    return tokens / tokens.sum()


def losses(data: StudyData, held_out: Ints, sums: Any, part: str) -> dict[str, Any]:
    """Loss of an answer token by corpus; its mean over corpora; and with the weights of training documents."""
    whole = np.zeros(len(data.lengths))
    whole[held_out] = sums
    of = of_corpora(data, part, whole) / of_corpora(data, part, data.lengths - data.answer_starts)
    return {"macro": float(of.mean()), "token": float(of @ token_weights(data)), "corpora": of.tolist()}


def objective(record: Mapping[str, Any]) -> float:
    """What decides the rate: the mean of the two validation losses."""
    found = record["loss"][""]["validation"]
    return float(found["macro"] + found["token"]) / 2


def sizes(data: StudyData) -> Floats:
    """Training documents of each corpus."""
    return of_corpora(data, "train", np.ones(len(data.lengths)))


def sampled(of_sizes: Floats, number: int, seed: int) -> Floats:
    """Mixtures between proportional and equal, spread around: shares [number, corpora]."""
    random = np.random.default_rng(seed)
    logs = random.random((number, 1)) * np.log(of_sizes) + random.normal(0, 0.6, (number, len(of_sizes)))
    shares = np.exp(logs)
    return shares / shares.sum(1, keepdims=True)


def predicted_gains(tried: list[Mapping[str, Any]], proportional: Floats, candidates: Floats) -> Floats:
    """The smaller gain of candidates over proportional shares, as Gaussian processes over log shares tell it."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    gains = []
    for name in ("macro", "token"):
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(2.0, (0.5, 20.0)) + WhiteKernel(0.1, (1e-3, 1.0))
        model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=3, random_state=0)
        model.fit(np.log([r["shares"] for r in tried]), [r["loss"][""]["validation"][name] for r in tried])
        gains.append(model.predict(np.log(proportional[None])) - model.predict(np.log(candidates)))
    return np.min(gains, axis=0)


class Plan:
    """All runs that can be told by now, the most important first; mixtures of later rounds are computed once."""

    def __init__(self, folder: Path) -> None:
        self.data = {mix: load_data(folder / f"{mix}.npz") for mix in NAMES}
        self.later: dict[tuple[str, int], list[tuple[float, ...]]] = {}

    def __call__(self, records: Records) -> list[Run]:
        rates = [run for mix in NAMES for run in self.trials(mix)]
        proxies = [run for mix in NAMES for run in self.proxies(mix, records)]
        arms = [run for mix in NAMES for run in self.arms(mix, records)]
        arms.sort(key=lambda run: (run.arm in RULES, run.seed))
        return list(dict.fromkeys([*rates, *proxies, *arms]))

    def trials(self, mix: str) -> list[Run]:
        return [Run(mix, "proportional", (), rate, SEEDS[0]) for rate in RATES]

    def arms(self, mix: str, records: Records) -> list[Run]:
        """All arms with all seeds, at the best rate of "proportional" as soon as it is known."""
        trials = [records.get(run.key) for run in self.trials(mix)]
        if None in trials:
            return []
        rate = min(trials, key=objective)["rate"]  # type: ignore[arg-type, index]
        arms = {"proportional": (), **{name: self.rule(mix, name) for name in RULES}}
        if best := self.chosen(mix, len(ROUNDS), records):
            arms["searched"] = best[0]
        return [Run(mix, name, shares, rate, seed) for seed in SEEDS for name, shares in arms.items()]

    def rule(self, mix: str, name: str) -> tuple[float, ...]:
        """Shares of a rule, from the product's own function."""
        counts = {f"{i:02d}": int(size) for i, size in enumerate(sizes(self.data[mix]))}
        cap = 1.5 / len(counts) if name == "capped" else 1.0
        return tuple(source_shares(counts, cap=cap, **RULES[name]).values())

    def proxies(self, mix: str, records: Records) -> list[Run]:
        rounds = [self.chosen(mix, number, records) for number in range(len(ROUNDS))]
        return [
            Run(f"{mix}{PROXY}", f"round {number}", shares, PROXY_RATE, SEEDS[0])
            for number, mixtures in enumerate(rounds)
            for shares in mixtures
        ]

    def chosen(self, mix: str, number: int, records: Records) -> list[tuple[float, ...]]:
        """Mixtures of a round, or none before the round ahead of it is over. The last round is the result alone."""
        if (mix, number) not in self.later:
            of_sizes = sizes(self.data[mix])
            proportional = of_sizes / of_sizes.sum()
            if number == 0:
                mixtures = np.vstack([proportional, sampled(of_sizes, ROUNDS[0] - 1, seed=0)])
            else:
                # In a fixed order and without later rounds, so that a study that goes on finds the same mixtures.
                proxies = [r for _, r in sorted(records.items()) if r["mix"] == f"{mix}{PROXY}"]
                tried = [r for r in proxies if int(r["arm"].removeprefix("round ")) < number]
                if len(tried) < sum(ROUNDS[:number]):
                    return []
                candidates = sampled(of_sizes, CANDIDATES, seed=number)
                best = candidates[np.argsort(-predicted_gains(tried, proportional, candidates))[:BEST_CANDIDATES]]
                random = np.random.default_rng(number)
                mixtures = best[:1] if number == len(ROUNDS) else random.permutation(best)[: ROUNDS[number]]
            self.later[mix, number] = [tuple(map(float, shares)) for shares in mixtures]
        return self.later[mix, number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    add_arguments(parser)
    parser.add_argument("--smoke", action="store_true", help="a tiny model on a few documents")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_all(
        Plan(arguments.state / "mixes"),
        arguments.state,
        arguments,
        budget=arguments.smoke,
        base=TINY if arguments.smoke else "embedded",
        execute=execute,
        warm_up=partial(warm_up, load=load_data, evaluation_tokens=MOST_TOKENS // 2),
    )


if __name__ == "__main__":
    main()
