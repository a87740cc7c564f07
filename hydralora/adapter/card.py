"""The README of an adapter that a user's own training saved: PEFT writes an empty form there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORM = "[More Information Needed]"
"""What PEFT's empty form is full of."""

CARD = """\
---
{base}library_name: peft
tags:
- hydralora
- peft
---

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


def replace_empty_card(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a useful card in place of PEFT's empty form. A card that somebody wrote stays.

    Args:
        config: Values of the adapter's configuration, as `to_dict` gives them.
    """
    from huggingface_hub import ModelCard, ModelCardData

    path = folder / "README.md"
    if not path.is_file():
        return
    blanks = ModelCard.from_template(ModelCardData()).text.count(FORM)
    if path.read_text(encoding="utf-8").count(FORM) >= blanks:  # nobody has filled in anything
        path.write_text(card(config), encoding="utf-8")


def card(config: Mapping[str, Any]) -> str:
    """The text of the card, with the metadata that a model hub reads."""
    name = config["base_model_name_or_path"] or ""
    on_hub = name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not Path(name).exists()
    commit = config["revision"]
    revision = f', revision="{commit}"' if commit else ""
    shared = f", and a LoRA of rank {config['shared_rank']} that is always on" if config["shared_rank"] else ""
    return CARD.format(
        base=f"base_model: {name}\n" if on_hub else "",
        num_experts=config["num_experts"],
        r=config["r"],
        shared=shared,
        router_input=config["router_input"],
        name=name or "not recorded",
        load=f'"{name or "the base model"}"{revision}',
        gates=GATES.format(num_experts=config["num_experts"]) if config["router_input"] == "given" else "",
    )
