"""The table of states and functions, every cell: the right answer, or a refusal that changes nothing."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import hydralora
from hydralora import HydraLoraConfig
from hydralora.adapter.state import adapter_state, hydralora_layers
from hydralora.gates.surgery import add_expert, drop_expert, merge_experts, upcycle
from tests.hydralora.small import add_through_transformers

MakeLlama = Callable[..., LlamaForCausalLM]
NEVER, TARGETS = nullcontext(), ["q_proj", "down_proj"]
PARTS = {"experts": {}, "split": {"shared_rank": 2, "shared_alpha": 3.0}}
STATES = ("usual", "merged", "another merged", "disabled", "not active", "compiled", "blocks compiled", "injected")


@pytest.fixture(autouse=True, params=list(PARTS))
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every cell of the table holds for each kind of adapter."""
    monkeypatch.setitem(PARTS, "now", PARTS[request.param])
    return request.param


def logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=tokens).logits
    return result


def config(kind: str = "hydralora", seed: int = 5, **options: Any) -> Any:
    torch.manual_seed(seed)
    if kind == "lora":
        return LoraConfig(r=3, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM")
    fields = {"r": 3, "target_modules": TARGETS, "init_weights": False, "task_type": "CAUSAL_LM"}
    return HydraLoraConfig(**{**fields, "router_input": "low_rank", **PARTS["now"], **options})


def in_state(state: str, base: LlamaForCausalLM, kind: str = "hydralora", **options: Any) -> Any:
    """A model whose adapter "default" is in this state."""
    if state == "injected":
        add_through_transformers(base, config(kind, **options), "default")
        return base.eval()
    model: Any = get_peft_model(base, config(kind, **options)).eval()
    if state in ("another merged", "not active"):
        single = {} if kind == "lora" else {"num_experts": 1}
        model.add_adapter("other", config(kind, seed=6, **single))
        model.eval()
        if state == "not active":
            model.set_adapter("other")
        else:
            model.base_model.merge_adapter(["other"])
    if state == "merged":
        if kind == "hydralora" and options.get("router_input") != "uniform":
            hydralora.set_fixed_gates(model, torch.tensor([0.2, 0.5, 0.3]))
        model.merge_adapter()
    if state == "disabled":
        model.base_model.disable_adapter_layers()
    if state == "compiled":
        model = torch.compile(model, backend="eager")
    if state == "blocks compiled":
        for i, block in enumerate(base.model.layers):
            base.model.layers[i] = torch.compile(block, backend="eager")
    return model


def alone(base: LlamaForCausalLM, tokens: Tensor, gates: Any = "uniform", **options: Any) -> Tensor:
    """What the adapter gives by itself under fixed gates."""
    model = get_peft_model(base, config(**options)).eval()
    with hydralora.fixed_gates(model, gates):
        return logits(model, tokens)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def refuses(model: Any, message: str, call: Callable[[], Any]) -> None:
    before, gates = parameters(model), [dict(layer.fixed_gate_vectors) for layer in hydralora_layers(model).values()]
    with pytest.raises(ValueError, match=message):
        call()
    after = parameters(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for layer, given in zip(hydralora_layers(model).values(), gates, strict=True):
        assert dict(layer.fixed_gate_vectors).keys() == given.keys()


@pytest.mark.parametrize("state", STATES)
def test_export_does_not_depend_on_the_state(tiny_llama: MakeLlama, tokens: Tensor, tmp_path: Path, state: str) -> None:
    expected = alone(tiny_llama(), tokens)
    model = in_state(state, tiny_llama())
    before = parameters(model)
    hydralora.export_lora(model, tmp_path, "uniform")
    close(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path).eval(), tokens), expected)
    assert all(torch.equal(before[name], value) for name, value in parameters(model).items())


@pytest.mark.parametrize("state", STATES)
def test_merging_for_good(tiny_llama: MakeLlama, tokens: Tensor, state: str) -> None:
    expected = alone(tiny_llama(), tokens)
    model = in_state(state, tiny_llama())
    if state == "injected":
        refuses(model, "expected a `PeftModel`", lambda: hydralora.to_merged(model, "uniform"))
        return
    merged = hydralora.to_merged(model, "uniform")
    close(logits(merged, tokens), expected)
    assert not any("hydralora" in name for name, _ in merged.named_modules())


def test_what_is_merged_already_is_kept_to_the_bit(tiny_llama: MakeLlama, tokens: Tensor) -> None:
    model = in_state("merged", tiny_llama().bfloat16())
    expected = logits(model, tokens)
    assert torch.equal(logits(hydralora.to_merged(model), tokens), expected)


@pytest.mark.parametrize("state", STATES)
def test_upcycling(tiny_llama: MakeLlama, tokens: Tensor, state: str) -> None:
    expected = logits(get_peft_model(tiny_llama(), config("lora")).eval(), tokens)
    model = in_state(state, tiny_llama(), "lora")
    if state == "injected":
        with pytest.raises(ValueError, match="expected a `PeftModel`"):
            upcycle(model, 3)
    elif state in ("another merged", "not active"):
        with pytest.raises(ValueError, match=r"'default' alone, got also other.*would be lost.*delete_adapter"):
            upcycle(model, 3)
    else:
        close(logits(upcycle(model, 3).eval(), tokens), expected)


EDITS: dict[str, Callable[[Any], None]] = {
    "add": lambda model: add_expert(model, copy_of=1),
    "drop": lambda model: drop_expert(model, 0),
    "merge": lambda model: merge_experts(model, (0, 2)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("state", STATES)
def test_surgery(tiny_llama: MakeLlama, tokens: Tensor, state: str, edit: Callable[[Any], None]) -> None:
    usual = in_state("usual", tiny_llama())
    edit(usual)
    model = in_state(state, tiny_llama())
    if state == "merged":
        refuses(model, "Cannot change experts while 'default' is merged.*unmerge_adapter", lambda: edit(model))
        model.unmerge_adapter()
        with model.disable_adapter():
            close(logits(model, tokens), logits(tiny_llama(), tokens))
        return
    edit(model)
    back_to_usual(model, state)
    close(logits(model, tokens), logits(usual, tokens))
    assert adapter_config(model).num_experts == usual.peft_config["default"].num_experts


def back_to_usual(model: Any, state: str) -> None:
    """The adapter runs again, alone."""
    if state == "another merged":
        model.unmerge_adapter()
    if state == "not active":
        model.set_adapter("default")
    if state == "disabled":
        model.base_model.enable_adapter_layers()


def adapter_config(model: Any) -> Any:
    return model.peft_config["default"]


@pytest.mark.parametrize("state", STATES)
def test_fixing_gates(tiny_llama: MakeLlama, tokens: Tensor, state: str) -> None:
    gates = torch.tensor([0.6, 0.1, 0.3])
    expected = alone(tiny_llama(), tokens, gates)
    model = in_state(state, tiny_llama())
    if state == "merged":
        refuses(model, "merged with its present gates", lambda: hydralora.set_fixed_gates(model, gates))
        return
    hydralora.set_fixed_gates(model, gates)
    back_to_usual(model, state)
    close(logits(model, tokens), expected)


@pytest.mark.parametrize("state", STATES)
def test_recording(tiny_llama: MakeLlama, tokens: Tensor, state: str) -> None:
    usual = in_state("usual", tiny_llama())
    with hydralora.record_gates(usual) as expected:
        logits(usual, tokens)
    model = in_state(state, tiny_llama())
    if state in ("merged", "another merged", "disabled"):
        message = "while adapters are disabled" if state == "disabled" else "is merged into the base weights"
        with pytest.raises(ValueError, match=f"Cannot record gates {message}|Cannot record gates while .* {message}"):
            hydralora.record_gates(model).__enter__()
        return
    with hydralora.record_gates(model) as gates:
        logits(model, tokens)
    if state == "not active":
        assert not gates  # unless a mixed batch names it
        return
    assert gates.keys() == expected.keys()
    for name in gates:
        close(gates[name], expected[name])


@pytest.mark.parametrize("state", STATES)
def test_calibration_and_comparison(tiny_llama: MakeLlama, tokens: Tensor, state: str) -> None:
    batches = [{"input_ids": tokens, "labels": tokens}]
    usual = in_state("usual", tiny_llama())
    expected = hydralora.calibrate_gates(usual, batches)
    gap = hydralora.compare_with_live(usual, "uniform", batches)
    model = in_state(state, tiny_llama())
    if state in ("merged", "another merged", "disabled", "not active"):
        refuses(model, "Cannot measure gates", lambda: hydralora.calibrate_gates(model, batches))
        refuses(model, "Cannot compare", lambda: hydralora.compare_with_live(model, "uniform", batches))
        return
    for name, gates in hydralora.calibrate_gates(model, batches).items():
        close(gates, expected[name])
    assert hydralora.compare_with_live(model, "uniform", batches).live_loss == pytest.approx(gap.live_loss, abs=1e-5)


@pytest.mark.parametrize("state", STATES)
def test_saving_and_loading(tiny_llama: MakeLlama, tokens: Tensor, tmp_path: Path, state: str) -> None:
    if state == "blocks compiled" and version("peft").startswith("0.20."):
        pytest.skip("PEFT 0.20 does not ask for the plain names of compiled blocks")
    expected = logits(in_state("usual", tiny_llama()), tokens)
    model = in_state(state, tiny_llama())
    model.save_pretrained(tmp_path)  # an additional adapter goes into a folder of its own
    close(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path).eval(), tokens), expected)
    base = tiny_llama()
    base.load_adapter(str(tmp_path))  # transformers' own way
    close(logits(base.eval(), tokens), expected)


def test_live_means_live_while_gates_are_fixed(tiny_llama: MakeLlama, tokens: Tensor) -> None:
    batches = [{"input_ids": tokens, "labels": tokens}]
    model = in_state("usual", tiny_llama())
    expected = hydralora.calibrate_gates(model, batches)
    gap = hydralora.compare_with_live(model, 1, batches)
    hydralora.set_fixed_gates(model, 1)
    fixed = logits(model, tokens)
    for name, gates in hydralora.calibrate_gates(model, batches).items():
        close(gates, expected[name])
    assert hydralora.compare_with_live(model, None, batches) == gap
    assert torch.equal(logits(model, tokens), fixed)


def test_one_config_object_for_two_models(tiny_llama: MakeLlama) -> None:
    shared = config()
    first, second = get_peft_model(tiny_llama(), shared), get_peft_model(tiny_llama(), shared)
    drop_expert(first, 0)
    assert (adapter_config(first).num_experts, adapter_config(second).num_experts) == (2, 3)


def test_one_config_object_for_two_adapters(tiny_llama: MakeLlama, tokens: Tensor) -> None:
    shared = config()
    model = get_peft_model(tiny_llama(), shared)
    model.add_adapter("other", shared)
    model.eval()
    model.set_adapter("other")
    expected = logits(model, tokens)
    model.set_adapter("default")
    drop_expert(model, 0)
    assert {name: c.num_experts for name, c in model.peft_config.items()} == {"default": 2, "other": 3}
    model.set_adapter("other")
    assert torch.equal(logits(model, tokens), expected)


def test_a_merged_adapter_takes_no_other_weights(tiny_llama: MakeLlama, tokens: Tensor, tmp_path: Path) -> None:
    in_state("usual", tiny_llama(), router_input="uniform", seed=8).save_pretrained(tmp_path)
    model = in_state("merged", tiny_llama(), router_input="uniform")
    refuses(model, "the adapter is merged", lambda: model.load_adapter(tmp_path, "default"))
    model.load_state_dict(model.state_dict())  # the same weights are no harm
    model.unmerge_adapter()
    with model.disable_adapter():
        close(logits(model, tokens), logits(tiny_llama(), tokens))


def test_merging_a_disabled_adapter_keeps_its_trained_modules(tiny_llama: MakeLlama, tokens: Tensor) -> None:
    model = in_state("usual", tiny_llama(), router_input="uniform", modules_to_save=["lm_head"])
    torch.nn.init.normal_(model.base_model.model.lm_head.modules_to_save["default"].weight)
    expected = logits(model, tokens)
    model.base_model.disable_adapter_layers()
    close(logits(hydralora.to_merged(model), tokens), expected)


def test_an_adapter_without_values(tiny_llama: MakeLlama, tokens: Tensor, tmp_path: Path) -> None:
    model = in_state("usual", tiny_llama())
    expected = logits(model, tokens)
    model.add_adapter("empty", config(router_input="uniform"), low_cpu_mem_usage=True)
    for call in (
        lambda: hydralora.export_lora(model, tmp_path, adapter_name="empty"),
        lambda: hydralora.to_merged(model, adapter_name="empty"),
        lambda: drop_expert(model, 0, "empty"),
        lambda: model.merge_adapter(["empty"]),
    ):
        with pytest.raises(ValueError, match="on the meta device"):
            call()
    assert torch.equal(logits(model, tokens), expected)


def test_offloaded_weights(tiny_llama: MakeLlama, tokens: Tensor, tmp_path: Path) -> None:
    batches = [{"input_ids": tokens, "labels": tokens}]
    plain, model = in_state("usual", tiny_llama()), in_state("usual", tiny_llama())
    cpu_offload(model, torch.device("cpu"))
    close(logits(model, tokens), logits(plain, tokens))
    losses = [hydralora.compare_with_live(each, 1, batches).fixed_loss for each in (model, plain)]
    assert losses[0] == pytest.approx(losses[1])
    expected = hydralora.calibrate_gates(plain, batches)
    for name, gates in hydralora.calibrate_gates(model, batches).items():
        close(gates, expected[name])
    for call in (
        lambda: hydralora.export_lora(model, tmp_path, 1),
        lambda: hydralora.to_merged(model, 1),
        lambda: drop_expert(model, 0),
    ):
        with pytest.raises(ValueError, match="on the meta device"):
            call()
    close(logits(model, tokens), logits(plain, tokens))


def test_adapter_layers_that_are_compiled_one_by_one(tiny_llama: MakeLlama) -> None:
    base = tiny_llama()
    model = in_state("usual", base)
    attention = base.model.layers[0].self_attn
    attention.q_proj = torch.compile(attention.q_proj, backend="eager")
    assert adapter_state(model).compiled == ("model.layers.0.self_attn.q_proj",)
    refuses(model, "are compiled one by one", lambda: hydralora.to_merged(model, "uniform"))


def test_a_model_that_is_no_transformers_model(tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    x = torch.randn(5, 4)
    options = {"target_modules": ["0", "2"], "router_input": "uniform", "init_weights": False}
    model = get_peft_model(make(), HydraLoraConfig(**options))
    expected = model(x)
    hydralora.export_lora(model, tmp_path)
    close(PeftModel.from_pretrained(make(), tmp_path)(x), expected)
    close(hydralora.to_merged(model)(x), expected)


def test_a_tied_weight_is_not_merged(tiny_llama: MakeLlama, tokens: Tensor, tmp_path: Path) -> None:
    """The head's weight is the embeddings': a merge into it would change both."""

    def base() -> LlamaForCausalLM:
        return tiny_llama(tie_word_embeddings=True)

    with pytest.warns(UserWarning, match="tie_word_embeddings"):  # PEFT's
        model = get_peft_model(base(), config(target_modules=["lm_head", "q_proj"], router_input="uniform")).eval()
    expected = logits(model, tokens)
    message = r"Cannot merge default: .*embed_tokens and lm_head have one weight \(tied\)"
    for call in (model.merge_adapter, model.merge_and_unload, lambda: hydralora.to_merged(model)):
        refuses(model, message, call)
    hydralora.export_lora(model, tmp_path)
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        plain = PeftModel.from_pretrained(base(), tmp_path).eval()
    close(logits(plain, tokens), expected)


class HalfLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


@pytest.mark.parametrize(
    ("linear", "message"),
    [
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), "the weight of a is computed anew in each forward"),
        (HalfLinear(4, 6), "a is a HalfLinear, which does not multiply by its weight as it is"),
    ],
    ids=["weight norm", "another product"],
)
def test_a_weight_that_is_not_used_as_it_is(linear: nn.Module, message: str) -> None:
    base = nn.ModuleDict({"a": linear, "b": nn.Linear(6, 3)})
    model = get_peft_model(base, HydraLoraConfig(target_modules=["a", "b"], router_input="uniform"))
    refuses(model, message, model.merge_adapter)


def test_a_module_with_two_names() -> None:
    """PEFT adapts it under one of them."""
    base = nn.ModuleDict({"head": nn.Linear(4, 4), "body": nn.Linear(4, 4)})
    base["again"] = base["head"]
    with pytest.warns(UserWarning, match="the base module stays as it is under again"):
        model = get_peft_model(base, HydraLoraConfig(target_modules=["head", "body"], router_input="uniform"))
    refuses(model, "head and again have one weight", model.merge_adapter)
