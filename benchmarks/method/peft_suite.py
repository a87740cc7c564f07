"""PEFT's own test-suite with HydraLoRA in the place of PEFT's methods, and PEFT's LoRA on the same tests beside it.

    pip download --no-deps --no-binary :all: peft==0.21.2 && tar xzf peft-0.21.2.tar.gz
    HF_HUB_OFFLINE=1 python benchmarks/method/peft_suite.py peft-0.21.2
    HF_HUB_OFFLINE=1 python benchmarks/method/peft_suite.py --variants LoRA "split, given" -- peft-0.21.2 -k merge
    HF_HUB_OFFLINE=1 python benchmarks/method/peft_suite.py --treatment Lily -- peft-0.21.2 -k "only_params and MLP"

Tests that PEFT runs for each of its configurations run for ours; tiny random models made here stand in for the ones of
the hub. PEFT's code is used where it lies and not changed. Writes benchmarks/results/peft_suite.json, or `--output`:
counts by file and reason, every failure, and every test that LoRA passes and a variant of ours does not.

PEFT's test of which parameters training changes treats some methods in their own way, by their class. `--treatment`
gives HydraLoRA the treatment of one of them: the learning rate of 100 (Lily), or random inputs (a part of AdaMSS's).
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig

from hydralora import HydraLoraConfig
from hydralora.adapter.config import ROUTER_INPUTS
from hydralora.adapter.layer import HydraLoraLayer

RESULT = Path(__file__).parents[1] / "results" / "peft_suite.json"
FILES = (
    "test_config.py",
    "test_custom_models.py",
    "test_decoder_models.py",
    "test_seq_classifier.py",
    "test_feature_extraction_models.py",
    "test_encoder_decoder_models.py",
    "test_token_classification_qa.py",
)
BASELINE = "LoRA"
VARIANTS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "N=1": {"num_experts": 1},
    "shared expert": {"shared_expert": True},
    "A for each expert": {"shared_a": False},
    **{kind: {"router_input": kind} for kind in ROUTER_INPUTS},
    **{f"split, {kind}": {"router_input": kind, "shared_rank": 3} for kind in ROUTER_INPUTS},
}
CUSTOM_MODELS: list[tuple[str, dict[str, Any]]] = [
    ("MLP", {"target_modules": "lin0"}),
    ("MLP", {"target_modules": ["lin0", "lin1"], "use_rslora": True}),
    ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("MLP", {"target_modules": ["lin0"], "exclude_modules": ["lin1"], "alpha_pattern": {"lin0": 8}}),
    ("EmbConv1D", {"target_modules": ["conv1d"]}),
]
NEEDS_HUB = (
    "Can't find 'adapter_config.json'",
    "offline mode",
    "on the Hub (OfflineModeIsEnabled)",
    "Couldn't instantiate the backend tokenizer",
)
TASKS = {
    "test_decoder_models.py": "CAUSAL_LM",
    "test_seq_classifier.py": "SEQ_CLS",
    "test_feature_extraction_models.py": "FEATURE_EXTRACTION",
    "test_encoder_decoder_models.py": "SEQ_2_SEQ_LM",
    "test_token_classification_qa.py": "TOKEN_CLS",
}


class Options(dict[str, Any]):
    """Arguments of a configuration, which know the variant that they belong to and what all variants share."""

    def __init__(self, common: dict[str, Any], variant: str) -> None:
        super().__init__({**common, **VARIANTS[variant]})
        self.common, self.variant = common, variant
        self.config_class = LoraConfig if variant == BASELINE else HydraLoraConfig


def custom_cases() -> list[tuple[str, str, type, Options]]:
    return [
        (f"{model} {variant} {targets}", model, options.config_class, options)
        for variant in VARIANTS
        for model, targets in CUSTOM_MODELS
        for options in [Options(targets, variant)]
    ]


def config_cases(task_type: str | None) -> list[tuple[type, Options]]:
    task = {"task_type": task_type, "target_modules": None} if task_type else {}
    return [(options.config_class, options) for variant in VARIANTS for options in [Options(task, variant)]]


def make_models(folder: Path) -> dict[str, list[str]]:
    """Tiny models with random weights, whose names contain what PEFT's tests look for; by file of tests."""
    import transformers as tf

    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 128}
    llama = {**sizes, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 128}
    bert = {**sizes, "intermediate_size": 64}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    t5 = tf.T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **ends)
    opt = tf.OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128)
    gpt2 = tf.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=128, bos_token_id=0, eos_token_id=0)
    models = {
        "tiny-random-OPTForCausalLM": tf.OPTForCausalLM(opt),
        "tiny-random-gpt2": tf.GPT2LMHeadModel(gpt2),
        "tiny-random-LlamaForCausalLM": tf.LlamaForCausalLM(tf.LlamaConfig(**llama)),
        "tiny-dummy-qwen2": tf.Qwen2ForCausalLM(tf.Qwen2Config(**llama)),
        "tiny-random-BertForSequenceClassification": tf.BertForSequenceClassification(tf.BertConfig(**bert)),
        "tiny-random-BertModel": tf.BertModel(tf.BertConfig(**bert)),
        "tiny-random-T5ForConditionalGeneration": tf.T5ForConditionalGeneration(t5),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    names = [str(folder / name) for name in models]
    return {
        "test_decoder_models.py": names[:4],
        "test_seq_classifier.py": names[4:5],
        "test_feature_extraction_models.py": names[5:6],
        "test_encoder_decoder_models.py": names[6:],
        "test_token_classification_qa.py": names[4:5],
    }


class Substitution:
    """A pytest plugin: our configurations and local models where PEFT parametrises over its own."""

    def __init__(self, models: dict[str, list[str]], treatment: str | None = None) -> None:
        self.models, self.treatment = models, treatment
        self.outcomes: dict[str, dict[str, str]] = {variant: {} for variant in VARIANTS}

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        file = Path(metafunc.module.__file__).name
        for mark in metafunc.definition.iter_markers("parametrize"):
            values = self._values(file, str(mark.args[0]).replace(" ", ""))
            if values is not None:
                object.__setattr__(mark, "args", (mark.args[0], values))

    def _values(self, file: str, names: str) -> list[Any] | None:
        if names == "test_name,model_id,config_cls,config_kwargs":
            return custom_cases()
        if names in ("config_class,mandatory_kwargs", "config_cls,config_kwargs"):
            return config_cases(TASKS.get(file))
        return self.models.get(file) if names == "model_id" else None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Only what PEFT runs for each of its methods."""
        config.hook.pytest_deselected(items=[item for item in items if _options(item) is None])
        items[:] = [item for item in items if _options(item) is not None]
        for item in items:
            item.user_properties.append(("case", _case(item)))

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Any:
        try:
            with _treated(pyfuncitem, self.treatment):
                return (yield)
        except (ValueError, OSError) as error:
            if "experts have gates that depend on the input" in str(error):
                pytest.skip("no single weight equals live gates of several experts: merging is refused")
            if any(text in str(error) for text in NEEDS_HUB):
                pytest.skip("needs the model hub")
            raise

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            reason = report.longrepr[2] if report.outcome == "skipped" and isinstance(report.longrepr, tuple) else ""
            variant, case = dict(report.user_properties)["case"]
            self.outcomes[variant][case] = " ".join(filter(None, (report.outcome, reason)))


def _treated(item: pytest.Function, treatment: str | None) -> Any:
    """Let PEFT's test of what training changes treat HydraLoRA as one of its own methods."""
    if treatment is None or item.originalname != "test_only_params_are_updated":
        return nullcontext()
    if treatment == "Lily":  # the test asks whether a config is a subclass of this one
        return mock.patch.object(item.module, "LilyConfig", HydraLoraConfig)
    inputs = {"X": torch.randn(9, 10, device=item.cls.torch_device)}
    return mock.patch.object(item.cls, "prepare_inputs_for_testing", return_value=inputs)


def _options(item: pytest.Item) -> Options | None:
    parameters = getattr(item, "callspec", None)
    found = [] if parameters is None else [v for v in parameters.params.values() if isinstance(v, Options)]
    return found[0] if found else None


def _case(item: Any) -> tuple[str, str]:
    """The variant of a test, and a name that is the same for all variants."""
    options: Any = _options(item)
    others = {
        name: Path(value).name if name == "model_id" else value
        for name, value in item.callspec.params.items()
        if name != "test_name" and value is not options and value is not options.config_class
    }
    parts = [*others.values(), *(f"{name}={value}" for name, value in options.common.items())]
    test = f"{item.path.name}::{item.cls.__name__}::{item.originalname}"
    return options.variant, " ".join([test, *map(str, parts)])


def _same_gates_for_all(
    self: HydraLoraLayer, shape: torch.Size, device: torch.device, adapter_name: str
) -> torch.Tensor:
    """PEFT's tests give no gates: every token of router_input="given" has these."""
    return torch.linspace(0.1, 0.9, self.num_experts[adapter_name], device=device)[None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peft", type=Path, help="folder of an unpacked source distribution or a checkout")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="default: all")
    parser.add_argument("--treatment", choices=("Lily", "random inputs"), help="default: as PEFT treats LoRA")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("pytest_args", nargs="*", help="after --: arguments for pytest, for instance -k forward")
    arguments = parser.parse_args()
    for name in set(VARIANTS) - set(arguments.variants or VARIANTS):
        del VARIANTS[name]
    HydraLoraLayer._gates_in_order = _same_gates_for_all  # type: ignore[method-assign]
    tests = arguments.peft / "tests"
    (tests / "__init__.py").touch()  # left out of source distributions
    with tempfile.TemporaryDirectory() as folder:
        plugin = Substitution(make_models(Path(folder)), arguments.treatment)
        files = [str(tests / name) for name in FILES]
        options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(arguments.peft), "-c", "/dev/null"]
        code = pytest.main([*options, *files, *arguments.pytest_args], plugins=[plugin])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(_result(plugin.outcomes), indent=1) + "\n")
    return int(code)


def _result(outcomes: dict[str, dict[str, str]]) -> dict[str, Any]:
    import peft
    import transformers

    versions = {module.__name__: module.__version__ for module in (peft, torch, transformers)}
    baseline = outcomes.get(BASELINE, {})
    return {
        "versions": {**versions, "python": sys.version.split()[0]},
        "variants": {name: _summary(cases, baseline) for name, cases in outcomes.items()},
    }


def _summary(cases: dict[str, str], baseline: dict[str, str]) -> dict[str, Any]:
    """Counts, and the tests that LoRA passes and these do not."""
    counts = Counter(f"{case.partition('::')[0]} {outcome}" for case, outcome in cases.items())
    unlike = {case: outcome for case, outcome in cases.items() if baseline.get(case) == "passed" != outcome}
    return {
        "total": dict(Counter(outcome.split()[0] for outcome in cases.values())),
        "outcomes": dict(sorted(counts.items())),
        "failures": [case for case, outcome in cases.items() if outcome == "failed"],
        "fails where LoRA passes": [case for case, outcome in unlike.items() if outcome == "failed"],
        "skipped where LoRA passes": dict(Counter(outcome for outcome in unlike.values() if outcome != "failed")),
    }


if __name__ == "__main__":
    sys.exit(main())
