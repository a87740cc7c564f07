"""The exports of a run as a server sees them: names of LoRAs, and which one a prompt belongs to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.atomic_files import load_json
from analysis.text.normalisation import normalised_text
from pipelines.serving.errors import ExportsError

AUTO = "auto"
READ = 2_000
"""Characters of a prompt that a classifier reads. More take time and do not help (docs/results/serving.md)."""
Scorer = Callable[[str], tuple[int, float | None]]
"""Group number of a prompt, and its probability if the group model has one."""


@dataclass(frozen=True)
class Exports:
    """The LoRAs of one folder of exports and the choice among them.

    Attributes:
        experts: name of each domain's LoRA -> the domain.
        others: name of the LoRA for prompts of no known domain.
        before_prompt, after_prompt: text that training put around a prompt, as clients of `/v1/completions` write it.
        score: finds the group of a prompt.
        base: the base model that all LoRAs were trained on.
        rank: their largest rank.
    """

    folder: Path
    experts: dict[str, str]
    others: str
    before_prompt: str
    after_prompt: str
    names: tuple[str, ...]
    score: Scorer
    base: str
    rank: int

    @classmethod
    def read(cls, folder: Path) -> "Exports":
        """Read the folder of a `domain_exports` artifact.

        Raises:
            ExportsError: something is missing or does not fit together.
        """
        folder = exports_folder(folder)
        serving = _serving(folder)
        domains: dict[str, str] = serving["domains"]
        for name in (*domains.values(), serving["others"]):
            if name == AUTO or not (folder / name / "adapter_model.safetensors").is_file():
                raise ExportsError(f"expected a LoRA in {folder / name}, not named {AUTO}; run domain_exports again")
        groups, score = _group_model(folder / "group_model") if domains else ((), lambda _: (0, None))
        if missing := set(groups) ^ set(domains):
            raise ExportsError(
                f"expected the same domains in serving.json and group_model, got {sorted(missing)} in one of them only "
                f"({folder}); both must come from the same run of domain_exports"
            )
        return cls(
            folder,
            {name: serving.get("names", {}).get(domain, domain) for domain, name in domains.items()},
            serving["others"],
            serving.get("before_prompt", ""),
            serving.get("after_prompt", ""),
            tuple(domains[group] for group in groups),
            score,
            *_base_and_rank([folder / name for name in (*domains.values(), serving["others"])]),
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all LoRAs."""
        return (*self.experts, self.others)

    def expert_of(self, prompt: str) -> tuple[str, float | None]:
        """LoRA of a prompt, and the probability of its domain; None where the group model has no probabilities.

        The prompt is normalised as the documents of the corpus were. A long one is `cut` for a classifier.
        """
        if not self.names:
            return self.others, None
        group, probability = self.score(prompt)
        return self.names[group], probability

    def without_frame(self, prompt: str) -> str:
        """A prompt without the text that training put around it."""
        return prompt.removeprefix(self.before_prompt).removesuffix(self.after_prompt)


def cut(prompt: str, limit: int = READ) -> str:
    """The head and the tail of a prompt longer than `limit` characters."""
    return prompt if len(prompt) <= limit else f"{prompt[: limit // 2]}\n{prompt[-limit // 2 :]}"


def exports_folder(folder: Path) -> Path:
    """The folder itself, or the only folder of exports in it.

    Raises:
        ExportsError: there is none, or more than one.
    """
    if (folder / "serving.json").is_file():
        return folder
    found = sorted(path.parent for path in folder.glob("*/serving.json"))
    if len(found) != 1:
        names = f"{len(found)}: {', '.join(path.name for path in found)}" if found else "none"
        raise ExportsError(
            f"expected a folder with serving.json, or with one such folder, in {folder}; got {names}. "
            "`hydralora export`, or a run (domain_exports), writes it"
        )
    return found[0]


def _serving(folder: Path) -> dict[str, Any]:
    path = folder / "serving.json"
    try:
        serving: dict[str, Any] = load_json(path)
    except ValueError as error:
        raise ExportsError(f"expected JSON in {path}, got {error}") from None
    match serving:
        case {"domains": dict(domains), "others": str(others)} if isinstance(serving.get("names", {}), dict):
            folders = [*domains.values(), others]
        case _:
            raise ExportsError(f"expected `domains` and `others` in {path}; run domain_exports again")
    if len(set(folders)) < len(folders):
        raise ExportsError(f"expected a folder of its own for each domain in {path}, got {folders}")
    return serving


def _base_and_rank(loras: list[Path]) -> tuple[str, int]:
    try:
        configs = [load_json(lora / "adapter_config.json") for lora in loras]
        bases, rank = {str(config["base_model_name_or_path"]) for config in configs}, max(c["r"] for c in configs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportsError(f"expected adapter_config.json with a base model and r in each LoRA, got {error}") from None
    if len(bases) > 1:
        raise ExportsError(f"expected one base model in {loras[0].parent}, got {', '.join(sorted(bases))}")
    return bases.pop(), rank


def _group_model(folder: Path) -> tuple[tuple[str, ...], Scorer]:
    """The domain of each group number, and the function that finds the number of a prompt."""
    from analysis.experts.prompt_classifier import PromptClassifier
    from analysis.experts.prompt_gates import load_group_model

    try:
        model = load_group_model(folder)
    except (OSError, ValueError) as error:
        raise ExportsError(f"cannot read the group model in {folder}: {error}; run domain_exports again") from error
    if not isinstance(model, PromptClassifier):

        def nearest(prompt: str) -> tuple[int, None]:
            return int(model.assign([normalised_text(prompt)])[0][0]), None

        return tuple(map(str, range(model.n_groups))), nearest

    def score(prompt: str) -> tuple[int, float]:
        group, distance = model.assign_one(normalised_text(cut(prompt)))
        return group, 1 - distance

    return model.classes_, score
