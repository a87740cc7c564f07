"""What a served LoRA is compared with: the answers of transformers and peft, and how far others are from them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

PROMPTS = (
    "What does the function open return?\n\n",
    "Translate to French: The file was not found.\n\n",
    "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?\n\n",
)
GREEDY_TOKENS = 12
TOP = 20

# Log-probabilities of the next token, and greedy tokens.
Answer = tuple[torch.Tensor, list[int]]
# The same from a server, which names its likeliest tokens only.
ServedAnswer = tuple[dict[int, float], list[int]]


def export_folders(exports: Path, num_domains: int | None = None) -> list[str]:
    """Folders of the first domains (default: all), and `others`."""
    serving = json.loads((exports / "serving.json").read_text())
    return [*list(serving["domains"].values())[:num_domains], serving["others"]]


def peft_answers(
    base: Any, exports: Path, folders: Sequence[str], prompts: Sequence[list[int]]
) -> dict[str | None, list[Answer]]:
    """What peft answers to tokenised prompts under each LoRA, and under None the base without one."""
    model: Any = PeftModel.from_pretrained(base, exports / folders[0], adapter_name=folders[0])
    for folder in folders[1:]:
        model.load_adapter(exports / folder, folder)
    model.eval()
    answers: dict[str | None, list[Answer]] = {}
    with model.disable_adapter():
        answers[None] = [expected(model, prompt) for prompt in prompts]
    for folder in folders:
        model.set_adapter(folder)
        answers[folder] = [expected(model, prompt) for prompt in prompts]
    return answers


def expected(model: Any, tokens: list[int]) -> Answer:
    """What transformers answers."""
    inputs = torch.tensor([tokens], device=model.device)
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(input_ids=inputs).logits[0, -1].float(), dim=-1)
        output = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=GREEDY_TOKENS, do_sample=False
        )
    return logprobs.cpu(), output[0, len(tokens) :].tolist()


def compared(answers: list[ServedAnswer], ours: list[Answer], base: list[Answer]) -> dict[str, float]:
    """Over the prompts: largest difference of log-probabilities among the server's likeliest tokens, what the adapter
    changes there, and the share of greedy tokens that agree up to the first difference."""
    differences, effects, agreed = [], [], []
    for (likeliest, greedy_there), (logprobs, greedy), (base_logprobs, _) in zip(answers, ours, base, strict=True):
        differences.append(max(abs(logprobs[token].item() - logprob) for token, logprob in likeliest.items()))
        effects.append(max(abs(logprobs[token] - base_logprobs[token]).item() for token in likeliest))
        length = max(len(greedy), len(greedy_there))
        same = next((i for i, (a, b) in enumerate(zip(greedy, greedy_there, strict=False)) if a != b), length)
        agreed.append(min(same, length) / length)
    return {"difference": max(differences), "effect": max(effects), "greedy_agreed": float(np.mean(agreed))}
