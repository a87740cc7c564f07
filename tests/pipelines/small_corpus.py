"""Three kinds of short texts and a model of one token a byte: jobs that train end in seconds."""

import json
from pathlib import Path
from typing import Any

from tests.hydralora.small import small_model, small_tokenizer

WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jasper", "kelp", "lotus")


def resources(folder: Path, **more: dict[str, Any]) -> dict[str, Any]:
    """Configuration of the resources, with the base model saved in `folder`."""
    base = folder / "base"
    if not base.exists():
        small_model().save_pretrained(base)
        small_tokenizer().save_pretrained(base)
    recipe = {
        "max_steps": 10,
        "tokens_per_step": 96,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        **more.get("recipe", {}),
    }
    values = {"base_model": {"name": str(base)}, "store": {"directory": str(folder / "store")}} | more
    return {name: {"config": value} for name, value in (values | {"recipe": recipe}).items()}


def corpus_ops(folder: Path, *, num_experts: int = 3) -> dict[str, Any]:
    """Configuration of the corpus job: sums, reversals, and praise of gardens, each in a file of its own."""
    rows = {
        "sums": [(f"{i} plus {j} equals", str(i + j)) for i in range(20, 28) for j in range(30, 38)],
        "reversals": [(f"reverse the words {a} {b}", f"{b} {a}"[::-1]) for a in WORDS[:8] for b in WORDS[:8]],
        "gardens": [(f"praise the garden of {a} and {b}", f"{b} blooms by {a}") for a in WORDS[:8] for b in WORDS[4:]],
    }
    sources = []
    for name, pairs in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
        sources.append({"name": name, "read": {"files": {"paths": [str(path)]}}})
    cleaning = {"near_duplicate_threshold": None, "detect_language": False, "test_fraction": 0.2}
    values = {
        "raw_documents": {"sources": sources},
        "corpus_documents": cleaning,
        "num_clusters": {"value": num_experts},
        "expert_assignment": {"grouping": "sources"},
        "tokenised_documents": {"template": "plain", "max_length": 64},
    }
    return {name: {"config": value} for name, value in values.items()}
