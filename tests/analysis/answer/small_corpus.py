"""Small made-up files of two kinds of work."""

import json
import random
from pathlib import Path

GARDEN = ["prune", "water", "plant", "seed", "soil", "root", "leaf", "compost", "bloom", "shade", "hedge", "mulch"]
LEDGER = ["invoice", "credit", "debit", "audit", "tax", "ledger", "refund", "payroll", "quarter", "bond", "margin"]


def write_records(path: Path, words: list[str], n: int = 120, seed: int = 0, **extra: object) -> Path:
    """JSON lines of prompts that are made of some words."""
    chance = random.Random(seed)
    rows = [
        {"prompt": f"{' '.join(chance.choices(words, k=9))} {i}", "completion": f"answer {i} {chance.choice(words)}"}
        for i in range(n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({**row, **extra}) + "\n" for row in rows), encoding="utf-8")
    return path
