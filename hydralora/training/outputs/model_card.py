"""The README of a trained adapter, with code that loads it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydralora.base_model import EMBEDDED, EMBEDDED_ON_HUB

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

# Folder beside an adapter with the model that finds the expert of a prompt (see `analysis.experts.prompt_gates`).
GROUP_MODEL = "group_model"


def model_card(record: Mapping[str, Any], *, has_group_model: bool = False) -> "ModelCard":
    """A model card from the record of a run (`run.json`).

    Args:
        has_group_model: Whether the folder of the adapter has a `GROUP_MODEL` folder.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name = record["base_model"]["name"]
    peft_config = record["peft_config"]
    data = ModelCardData(
        base_model=EMBEDDED_ON_HUB if name == EMBEDDED else name,
        library_name="transformers" if peft_config is None else "peft",
        pipeline_tag="text-generation",
        tags=["hydralora"] if peft_config is None else ["hydralora", peft_config["peft_type"].lower()],
    )
    sections = [
        "# " + _title(record),
        _facts(record),
        "## Use\n\n```python\n" + usage_code(record, has_group_model=has_group_model) + "```",
    ]
    if record["held_out"] is not None:
        sections.append("## Held-out loss\n\n" + _losses(record["held_out"]))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def usage_code(record: Mapping[str, Any], *, has_group_model: bool = False) -> str:
    """Python code that loads the adapter from the current folder and answers a prompt with the training's template."""
    name, peft_config = record["base_model"]["name"], record["peft_config"]
    template = record["data"]["template"]
    load = f'model, tokenizer = load_base_model("{name}")\n'
    if peft_config is None:
        load = 'model, tokenizer = load_base_model(".")\n'
    else:
        load += 'model = PeftModel.from_pretrained(model, ".").eval()\n'
    generate = "output = model.generate(tokens, max_new_tokens=64, do_sample=False)\n"
    if peft_config is not None and peft_config.get("router_input") == "given":
        gates = [1.0] + [0.0] * (peft_config["num_experts"] - 1)
        if has_group_model:
            lines = f'gates = torch.from_numpy(prompt_gates(load_group_model("{GROUP_MODEL}"), [prompt]))\n'
        else:
            lines = f"gates = torch.tensor([{gates}])  # one weight per expert; here only the first is on\n"
        generate = f"{lines}with hydralora.expert_gates(model, gates):\n    {generate}"
    return (
        "import torch\n"
        + ("" if peft_config is None else "from peft import PeftModel\n")
        + "\nimport hydralora\n"
        + ("from analysis.experts.prompt_gates import load_group_model, prompt_gates\n" if has_group_model else "")
        + "from hydralora.base_model import load_base_model\n"
        "from hydralora.data import Frame\n\n"
        + load
        + f'frame = Frame.of(tokenizer, "{template}")\n'
        + 'prompt = "What is a router?"\n'
        + "tokens = torch.tensor(frame.prompt_tokens(tokenizer, [prompt]))\n"
        + generate
        + "print(tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True))\n"
    )


def _title(record: Mapping[str, Any]) -> str:
    kind = "Full fine-tuning" if record["peft_config"] is None else f"{record['peft_config']['peft_type']} adapter"
    return f"{kind} of {record['base_model']['name']}"


def _facts(record: Mapping[str, Any]) -> str:
    data, parameters = record["data"], record["parameters"]
    share = 100 * parameters["trainable"] / parameters["all"]
    return (
        f"Trained by [hydralora](https://arxiv.org/abs/2404.19245) on {data['documents']:,} documents: "
        f"{record['steps']:,} steps, {record['tokens']:,} tokens, {parameters['trainable']:,} trainable parameters "
        f"({share:.3f}% of {parameters['all']:,}), learning rate {record['config']['learning_rate']:g}, seed "
        f"{record['config']['seed']}. The loss counts only answer tokens. `run.json` has all details."
    )


def _losses(held_out: Mapping[str, Mapping[str, float] | None]) -> str:
    before, held_out_after = held_out["before"] or {}, held_out["after"] or {}
    rows = [
        f"| {group} | {f'{before[group]:.3f}' if group in before else ''} | {after:.3f} |"
        for group, after in held_out_after.items()
    ]
    return "\n".join(["Nats per answer token.", "", "| source | before | after |", "|---|---|---|", *rows])
