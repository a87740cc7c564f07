"""Writes the files beside an adapter's weights: a README in place of PEFT's empty form, and a stable config."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORM = "[More Information Needed]"
"""The words by which PEFT's empty form is recognised."""

CARD = """\
# A HydraLoRA adapter

One shared matrix A, {num_experts} experts B of rank {r}{shared}; gates: `{router_input}`. Base model: `{name}`.

## Load it

Import `hydralora` first: it tells PEFT about this kind of adapter.

```python
import hydralora
from hydralora.base_model import load_base_model
from peft import PeftModel

base, tokenizer = load_base_model({load})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

`peft.AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")` loads both in one call. Prompts of several
lengths are padded on the left (`tokenizer.padding_side = "left"`) for `generate`.
{gates}
## Serve it

`hydralora export path/to/this/folder` writes a plain LoRA for each expert if the gates are given. A plain LoRA needs no
`hydralora`: vLLM, llama.cpp and PEFT load it. With a router, `hydralora.export_lora(model, folder, gates)` does the
same for gates that `hydralora.calibrate_gates` measured; see the documentation on serving for what that costs.
"""
GATES = """
The gates of this adapter are given. For one expert, `hydralora.set_fixed_gates(model, 0)`. For a batch, call
`model(**batch, expert_gates=gates)` or `with hydralora.expert_gates(model, gates): model.generate(**batch)`, where
`gates` is [batch, {num_experts}].
"""


EXPORT = "# A LoRA exported from HydraLoRA"
EXPORT_CARD = (
    EXPORT
    + """

{gates} Rank {r}. Base model: `{name}`. It equals the HydraLoRA adapter with these gates, and loads without `hydralora`.

## Load it

```python
from peft import {loader}
from transformers import AutoTokenizer

model = {loader}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{name}"{revision})
```
"""
)
SERVE_CARD = """
## Serve it

    vllm serve {name} --enable-lora --max-lora-rank {served_rank} --lora-modules expert=path/to/this/folder

For llama.cpp's server, its `convert_lora_to_gguf.py` converts this folder first.
"""


def write_export_card(folder: Path, config: Mapping[str, Any], gates: str, portable: bool) -> None:
    """Write the card of a plain LoRA that was exported. A card that somebody else wrote stays.

    Args:
        config: values of the LoRA's configuration, as `to_dict` gives them.
        gates: a sentence about the gates that are fixed in it.
        portable: whether servers load it.
    """
    from huggingface_hub import ModelCardData

    path = folder / "README.md"
    if path.is_file() and EXPORT not in path.read_text(encoding="utf-8"):
        return
    name, causal = config["base_model_name_or_path"], config["task_type"] == "CAUSAL_LM"
    data = ModelCardData(
        base_model=None if not name or Path(name).is_dir() else name,
        library_name="peft",
        pipeline_tag="text-generation" if causal else None,
        tags=["hydralora", "lora"],
    )
    text = (EXPORT_CARD + SERVE_CARD * portable).format(
        gates=gates,
        r=config["r"],
        name=name or "the base model, which is not recorded",
        loader="AutoPeftModelForCausalLM" if causal else "AutoPeftModel",
        revision=f', revision="{config["revision"]}"' if config["revision"] else "",
        served_rank=max(8, 1 << (config["r"] - 1).bit_length()),  # a rank that vLLM accepts
    )
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")


def replace_empty_card(folder: Path, config: Mapping[str, Any]) -> None:
    """Replace PEFT's empty form by a useful text, and keep its metadata. A card that somebody wrote stays.

    Args:
        config: Values of the adapter's configuration, as `to_dict` gives them.
    """
    from huggingface_hub import ModelCard, ModelCardData

    path = folder / "README.md"
    if not path.is_file():
        return
    written = ModelCard.load(path, ignore_metadata_errors=True)
    blanks = ModelCard.from_template(ModelCardData()).text.count(FORM)
    if written.text.count(FORM) >= blanks:  # nobody has filled in anything
        if Path(str(written.data.base_model)).is_dir():  # a folder of this machine means nothing to others
            name = config["base_model_name_or_path"]
            written.data.base_model = None if name and Path(name).is_dir() else name
        tags = {tag for tag in written.data.tags or [] if not Path(tag.removeprefix("base_model:adapter:")).is_dir()}
        written.data.tags = sorted({"hydralora", "peft", *tags})
        path.write_text(f"---\n{written.data.to_yaml()}\n---\n\n{card_text(config)}", encoding="utf-8")


def card_text(config: Mapping[str, Any]) -> str:
    """The text of the card."""
    name, commit = config["base_model_name_or_path"] or "", config["revision"]
    revision = f', revision="{commit}"' if commit else ""
    shared = f", and a LoRA of rank {config['shared_rank']} that is always on" if config["shared_rank"] else ""
    return CARD.format(
        num_experts=config["num_experts"],
        r=config["r"],
        shared=shared,
        router_input=config["router_input"],
        name=name or "not recorded",
        load=f'"{name or "the base model"}"{revision}',
        gates=GATES.format(num_experts=config["num_experts"]) if config["router_input"] == "given" else "",
    )


_SETS = ("target_modules", "exclude_modules", "feedforward_modules")
"""PEFT keeps these fields as sets and writes them in hash order, which differs between processes."""


def sort_adapter_configs(folder: Path) -> None:
    """Sort the fields that PEFT wrote from sets, in every `adapter_config.json` under a folder.

    So each process writes the same bytes.
    """
    for path in sorted(folder.rglob("adapter_config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        names = {key: sorted(config[key]) for key in _SETS if isinstance(config.get(key), list)}
        path.write_text(json.dumps({**config, **names}, indent=2, sort_keys=True), encoding="utf-8")
