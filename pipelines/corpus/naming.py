"""Asks a language model for the names of clusters: the run's base model, or a server with OpenAI's API."""

import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

NEW_TOKENS = 16
KEY = "OPENAI_API_KEY"
"""Environment variable with the key of an endpoint that asks for one."""
SECONDS = 60
Requests = Mapping[int, Sequence[Mapping[str, str]]]
"""Cluster -> conversation that asks for its name."""


def ask_base_model(model: Any, tokenizer: Any, requests: Requests) -> dict[int, str]:
    """The base model's answers, without sampling. A model without a chat template gets the turns as plain text."""
    import torch

    answers = {}
    with torch.inference_mode():
        for cluster, messages in requests.items():
            if tokenizer.chat_template:
                given = tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
            else:
                turns = "\n\n".join(message["content"] for message in messages)
                given = tokenizer(f"{turns}\n\n", return_tensors="pt")
            output = model.generate(
                **given.to(model.device),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
            new = output[0, given["input_ids"].shape[1] :]
            answers[cluster] = str(tokenizer.decode(new, skip_special_tokens=True))
    return answers


def ask_endpoint(url: str, model: str, requests: Requests) -> dict[int, str]:
    """A server's answers.

    Args:
        url: of OpenAI's API, up to and with `/v1`.

    Raises:
        dagster.Failure: the server does not answer as OpenAI's does.
    """
    return {cluster: _asked(url, model, messages) for cluster, messages in requests.items()}


def _asked(url: str, model: str, messages: Sequence[Mapping[str, str]]) -> str:
    body: dict[str, Any] = {"model": model, "messages": list(messages), "max_tokens": NEW_TOKENS, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    address = f"{url.rstrip('/')}/chat/completions"
    try:
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"] or "")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise dg.Failure(
            f"{address} gave no name for a cluster: {type(error).__name__}: {error}. Check url and model under "
            f"ops.cluster_names.config, and the environment variable {KEY} if a key is asked for; or set by: terms.",
            allow_retries=False,
        ) from error
