"""Gates of a sequence reach the tokens of that sequence, in models of all shapes, or are refused."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch._dynamo.utils import counters

import hydralora
from hydralora import HydraLoraConfig, expert_gates
from hydralora.adapter.batch_axis import Call, Images, Patches, Place, _rows_of_patches, locate
from tests.hydralora.small import add_through_transformers

MakeModel = Callable[..., PeftModel]
GATES = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def adapted(base: nn.Module, **options: Any) -> Any:
    fields = {"r": 4, "init_weights": False, "target_modules": "all-linear", "router_input": "given"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return get_peft_model(base, HydraLoraConfig(**{**fields, **options})).eval()


def each_row_as_alone(model: Any, inputs: dict[str, Tensor], output: str = "logits") -> None:
    """A batch of two gives what each row gives under the same gates, fixed."""
    with torch.no_grad(), expert_gates(model, GATES):
        both = getattr(model(**inputs), output)
    for row in range(2):
        with torch.no_grad(), expert_gates(model, GATES[row : row + 1]):
            alone = getattr(model(**{key: value[row : row + 1] for key, value in inputs.items()}), output)
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=1e-5)


CAUSAL = {
    "experts see [batch * length, d]": lambda: transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(
            **SMALL, num_key_value_heads=2, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16
        )
    ),
    "layers see [length, batch, d]": lambda: transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(vocab_size=64, d_model=32, n_layer=2, n_head=4, d_inner=48)
    ),
    "a pooled output": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
    "one layer called several times": lambda: transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(**SMALL, embedding_size=16)
    ),
}


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
@pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
def test_models_of_other_shapes(make: Callable[[], nn.Module], tokens: Tensor) -> None:
    each_row_as_alone(adapted(make().eval()), {"input_ids": tokens})


def test_an_encoder_and_a_decoder(tokens: Tensor) -> None:
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0
    )
    model = adapted(transformers.T5ForConditionalGeneration(config).eval(), task_type="SEQ_2_SEQ_LM")
    each_row_as_alone(model, {"input_ids": tokens, "decoder_input_ids": tokens[:, :3]})
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    with expert_gates(model, GATES):
        both = model.generate(input_ids=tokens, **options)
    for row in range(2):
        with expert_gates(model, GATES[row : row + 1]):
            alone = model.generate(input_ids=tokens[row : row + 1], **options)
        assert torch.equal(both[row, : alone.shape[1]], alone[0])


def test_embeddings_of_positions_have_no_rows(tokens: Tensor) -> None:
    config = transformers.DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True
    )
    model = adapted(transformers.DebertaV2ForSequenceClassification(config).eval())
    with expert_gates(model, GATES), pytest.raises(ValueError, match=r"Cannot tell which row .*exclude_modules"):
        model(input_ids=tokens)
    with expert_gates(model, GATES[:1]):
        assert model(input_ids=tokens[:1]).logits.shape == (1, 2)


def test_images_are_no_rows(tokens: Tensor) -> None:
    """Two images of one row would be taken for two rows."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = transformers.LlamaConfig(**SMALL, num_key_value_heads=2)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=63, image_seq_length=4)
    base = transformers.LlavaForConditionalGeneration(config).eval()
    ids = torch.tensor([[5] + [63] * 8, [5, 6, 7, 8, 9, 1, 2, 3, 4]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 8, 8)}
    everywhere = adapted(copy.deepcopy(base))
    with (
        expert_gates(everywhere, GATES),
        pytest.raises(ValueError, match="CLIPVisionModel works on pixel_values, whose"),
    ):
        everywhere(**inputs)
    text_alone = adapted(base, target_modules=r".*language_model.*\.(q_proj|down_proj)")
    with expert_gates(text_alone, GATES):
        assert text_alone(**inputs).logits.shape == (2, 9, 64)


def test_patches_of_unequal_images() -> None:
    ids = torch.tensor([[9, 9, 0, 9], [0, 9, 0, 0]])
    grid = torch.tensor([[1, 2, 4], [1, 2, 2], [1, 2, 2]])
    patches = _rows_of_patches(Images(ids, ((9, grid),), 4), grid)
    assert patches is not None
    assert patches.rows.tolist() == [0] * 12 + [1] * 4
    assert _rows_of_patches(Images(ids, ((9, grid),), 4), grid.clone()) is None  # another tensor: of something else
    across = torch.tensor([[1, 2, 2], [1, 4, 6]])  # the second image would lie in both rows
    assert _rows_of_patches(Images(torch.tensor([[9, 9, 9, 9], [9, 9, 9, 0]]), ((9, across),), 4), across) is None


def test_images_on_their_own_are_rows() -> None:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=8, patch_size=4
    )
    model = adapted(transformers.ViTForImageClassification(config).eval())
    each_row_as_alone(model, {"pixel_values": torch.randn(2, 3, 8, 8)})


def test_pairs_need_gates_of_their_own(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(router_input="given")
    pairs = torch.cat([tokens, tokens.flip(1)])
    with pytest.raises(ValueError, match=r"each of the 4 rows that the model is called with, got \(2, 3\).*\(DPO\)"):
        model(pairs, expert_gates=GATES)
    given = model(pairs, expert_gates=GATES.repeat(2, 1)).logits
    torch.testing.assert_close(given[2:], model(pairs[2:], expert_gates=GATES).logits)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True, "top_k": 1}])
def test_copies_in_generation(hydra_llama: MakeModel, tokens: Tensor, options: dict[str, Any]) -> None:
    model = hydra_llama(router_input="given")
    seen: list[int] = []
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    with expert_gates(model, GATES):
        model.generate(input_ids=tokens, max_new_tokens=3, **options)
        assert max(seen) == 2 * (options.get("num_beams") or options["num_return_sequences"])
        with pytest.raises(ValueError, match="each of the 6 rows"):  # generation is over
            model(tokens.repeat(3, 1))
    assert "generate" not in model.base_model.model.__dict__


def test_mixed_batches_with_beams(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(router_input="given", lora_alpha=64)
    model.add_adapter("other", HydraLoraConfig(r=2, target_modules=["q_proj"], init_weights=False, num_experts=1))
    model.eval()
    options = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False}
    with expert_gates(model, GATES):
        both = model.generate(input_ids=tokens, adapter_names=["other", "default"], **options)
    with expert_gates(model, GATES[1:]):
        alone = model.generate(input_ids=tokens[1:], adapter_names=["default"], **options)
    assert torch.equal(both[1], alone[0])


def test_injected_through_transformers(tiny_llama: Callable[..., Any], tokens: Tensor) -> None:
    model = tiny_llama()
    config = HydraLoraConfig(r=4, init_weights=False, target_modules=["q_proj"], router_input="given")
    add_through_transformers(model, config)
    model.eval()
    each_row_as_alone(model, {"input_ids": tokens})
    with expert_gates(model, GATES):
        assert model.generate(input_ids=tokens, max_new_tokens=2, num_beams=2).shape == (2, 9)


@pytest.mark.parametrize("learn", [False, True])
def test_gates_of_each_token(hydra_llama: MakeModel, tokens: Tensor, learn: bool) -> None:
    """Packed rows: each token has the gates of its document."""
    model = hydra_llama(router_input="given", shared_expert=True)
    of_tokens = GATES[:, None].repeat(1, 7, 1)
    of_tokens[1, 4:] = GATES[0]
    given = model(tokens, expert_gates=of_tokens.requires_grad_(learn)).logits
    first = model(tokens, expert_gates=GATES).logits
    torch.testing.assert_close(given[0], first[0])
    torch.testing.assert_close(given[1, :4], first[1, :4])
    assert not torch.allclose(given[1, 4:], first[1, 4:])
    with pytest.raises(ValueError, match=r"Expected expert_gates \[batch, length, N\].*got \(2, 6, 3\)"):
        model(tokens, expert_gates=of_tokens[:, :6])


def test_as_many_rows_as_tokens(hydra_llama: MakeModel) -> None:
    """Transformers' models say which axis is the batch; of others both could be it."""
    gates = torch.softmax(torch.randn(5, 3), -1)
    tokens = torch.randint(1, 64, (5, 5))
    model = hydra_llama(router_input="given")
    torch.testing.assert_close(
        model(tokens, expert_gates=gates).logits[3:4], model(tokens[3:4], expert_gates=gates[3:4]).logits
    )
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False
    )  # [length, batch, d]
    other = adapted(encoder, target_modules=["linear1"])  # sees [length, batch, d]
    with expert_gates(other, gates), pytest.raises(ValueError, match="both axes are as long as the batch"):
        other(torch.randn(5, 5, 8))
    with expert_gates(other, gates), pytest.raises(ValueError, match="each of the 4 rows"):
        other(torch.randn(4, 5, 8))


def test_a_layer_by_itself(hydra_llama: MakeModel) -> None:
    layer = hydra_llama(router_input="given").get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(2, 7, 32)
    with expert_gates(layer, GATES):
        torch.testing.assert_close(layer(x)[:, 3], layer(x[:, 3]))
        with pytest.raises(ValueError, match="each of the 14 rows"):
            layer(x.flatten(0, 1))


def test_copies_of_the_model(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(router_input="given")
    expected = model(tokens, expert_gates=GATES).logits
    for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(each(tokens, expert_gates=GATES).logits, expected)
    unloaded = model.unload()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in unloaded.modules())


def test_compiled(hydra_llama: MakeModel, tokens: Tensor) -> None:
    torch.compiler.reset()  # other tests compile the same code, and the number of versions is limited
    model = hydra_llama(router_input="given")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for batch in (tokens, tokens[:1, :4]):
        graphs = counters["stats"]["unique_graphs"]
        for gates in (GATES[: len(batch)], GATES.flip(0)[: len(batch)]):
            expected = model(batch, expert_gates=gates).logits
            torch.testing.assert_close(compiled(batch, expert_gates=gates).logits, expected)
        assert counters["stats"]["unique_graphs"] == graphs + 1, "other gates must not compile anew"


KNOWN = Call(batch=2, lengths=(7,), batch_first=True)
OPEN = Call(batch=2, lengths=(7,))
PATCHES = Call(batch=2, unknown="no rows", patches=Patches(torch.zeros(16), 4))


@pytest.mark.parametrize(
    ("shape", "call", "place", "expected"),
    [
        ((2, 7), KNOWN, Place(True), "batch first"),
        ((2, 3), KNOWN, Place(), "batch first"),
        ((7, 2), OPEN, Place(True), "length first"),
        ((7, 2), KNOWN, Place(True), None),
        ((14,), KNOWN, Place(True), "flat"),
        ((14,), OPEN, Place(True), None),
        ((14,), KNOWN, Place(True, gathered=True), None),
        ((28,), KNOWN, Place(True), None),
        ((2,), KNOWN, Place(), "pooled"),
        ((2,), KNOWN, Place(True), None),
        ((2,), KNOWN._replace(mixed=True), Place(), None),
        ((2, 3), KNOWN._replace(mixed=True), Place(), None),
        ((2, 7), KNOWN._replace(mixed=True), Place(), "batch first"),
        ((4, 7), KNOWN, Place(), None),
        ((1, 7), KNOWN, Place(), None),
        ((16,), PATCHES, Place(True), "patches"),
        ((4,), PATCHES, Place(True), "patches"),
        ((8,), PATCHES, Place(True), None),
    ],
)
def test_which_axis(shape: tuple[int, ...], call: Call, place: Place, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"Cannot tell which row|patches of images"):
            locate(shape, call, place)
    else:
        assert locate(shape, call, place).kind == expected


def test_no_adapter_with_given_gates_means_no_hooks(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    hydralora.calibrate_gates(model, [{"input_ids": tokens}])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
