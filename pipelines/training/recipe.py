"""Settings that all adapters of a run share (layers, rank, budget, seed), in one place to keep methods comparable."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.store.configuration import declaration, fields_from, limited, values_for
from pipelines.store.files.manifest import folder_hashes

if TYPE_CHECKING:
    from hydralora.methods import MethodConfig
    from hydralora.training import TrainingConfig


class BaseModel(dg.ConfigurableResource):
    """The frozen model that adapters are trained for.

    `embedded` is SmolLM2-135M-Instruct, unpacked once from an installed Python package. Any other name is a local
    folder, or a hub id pinned by `revision`.
    """

    name: str = "embedded"
    revision: str | None = None
    load_in_4bit: bool = False
    trust_remote_code: bool = False

    def identity(self) -> dict[str, Any]:
        """Its values for a fingerprint: of a folder, also the content."""
        known = {"base_model": self.name, "base_revision": self.revision, "load_in_4bit": self.load_in_4bit}
        folder = Path(self.name)
        return known | ({"base_files": folder_hashes(folder)} if folder.is_dir() else {})

    def load(self) -> tuple[Any, Any]:
        """Load the model and its tokenizer."""
        from hydralora.base_model import taken_base_model

        return taken_base_model(**self.arguments())

    def lent(self) -> AbstractContextManager[tuple[Any, Any]]:
        """A context with the model (without adapters) and its tokenizer. They are loaded once per process."""
        from hydralora.base_model import borrowed_base_model

        return borrowed_base_model(**self.arguments())

    def tokenizer(self) -> Any:
        """Load only the tokenizer."""
        from hydralora.base_model import load_tokenizer

        return load_tokenizer(self.name, revision=self.revision, trust_remote_code=self.trust_remote_code)

    def arguments(self) -> dict[str, Any]:
        """Arguments for `hydralora.base_model.load_base_model`, as JSON values."""
        return {
            "name_or_path": self.name,
            "revision": self.revision,
            "quantization": "4bit" if self.load_in_4bit else None,
            "trust_remote_code": self.trust_remote_code,
        }

    def skeleton(self) -> Any:
        """The model's layers without weights, to check before training that a method fits."""
        from hydralora.base_model import load_skeleton

        return load_skeleton(self.name, revision=self.revision, trust_remote_code=self.trust_remote_code)


_METHOD = declaration("hydralora.methods.config", "MethodConfig")
_TRAINING = declaration("hydralora.training.config", "TrainingConfig")
_METHOD_FIELDS = ("target_modules", "layers_to_transform", "r", "lora_alpha", "lora_dropout")
_TRAINING_FIELDS = (
    "max_tokens",
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "learning_rate_ratios",
    "tokens_per_step",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "activation_offloading",
    "save_steps",
    "mixing_temperature",
    "mixing_weights",
    "mixing_cap",
    "report_to",
    "seed",
)


class Recipe(
    fields_from(  # type: ignore[misc]
        _TRAINING, fields_from(_METHOD, dg.ConfigurableResource, only=_METHOD_FIELDS), only=_TRAINING_FIELDS
    )
):
    """Data, budget, layers and rates of every training in a run.

    Exactly one of `max_tokens`, `max_steps` and `num_train_epochs` sets the budget. All methods see the same batches in
    the same order. The fields and their defaults are those of `hydralora.methods.MethodConfig` and
    `hydralora.training.TrainingConfig`; `target_modules` is a list of names, or the one entry `all-linear`.
    """

    learning_rates: dict[str, float] = limited({}, gt=0)
    """Method to its own learning rate, where it was tuned."""

    def identity(self) -> dict[str, Any]:
        """The settings for a fingerprint: all except those for checkpoints and trackers."""
        return {"recipe": self.model_dump(exclude={"save_steps", "report_to"})}

    def learning_rate_of(self, method: str) -> float:
        """The method's own rate if it has one, else the common rate."""
        return self.learning_rates[method] if method in self.learning_rates else float(self.learning_rate)

    def method_config(self, num_experts: int) -> "MethodConfig":
        """Settings for the table of methods."""
        from hydralora.methods import MethodConfig

        return MethodConfig(**values_for(MethodConfig, self), num_experts=num_experts)

    def training_config(
        self, method: str, *, max_tokens: int | None = None, seed: int | None = None
    ) -> "TrainingConfig":
        """Settings for `hydralora.training.train`. `max_tokens` replaces the budget, and `seed` the seed."""
        from hydralora.training import TrainingConfig

        values = values_for(TrainingConfig, self)
        values["learning_rate"] = self.learning_rate_of(method)
        if max_tokens is not None:
            values |= {"max_tokens": max_tokens, "max_steps": None, "num_train_epochs": None}
        if seed is not None:
            values["seed"] = seed
        return TrainingConfig(**values)
