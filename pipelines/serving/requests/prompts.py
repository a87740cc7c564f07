"""Reads the prompt of a request in the same way as training read it from documents. Requests are not trusted."""

import json
from collections.abc import Sequence
from typing import Any

from analysis.sources.chat import SPEAKERS, Chat, Turn, prompt_of
from analysis.sources.values import OddValueError
from pipelines.serving.errors import RequestError

ROLES = (*SPEAKERS, "developer", "function")
NAME_AN_EXPERT = "name an expert as the model instead of auto"


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestError: it is not UTF-8, not JSON, or not an object.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"expected the body in UTF-8, got another byte at {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"expected a body of JSON, got: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(400, f"expected a JSON object, got {_kind(value)}")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def conversation_turns(body: dict[str, Any]) -> list[Turn]:
    """The turns of a chat request up to the answer that is asked for.

    Raises:
        RequestError: messages are missing, of a wrong type, or hold something other than text.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, f"messages: expected a list with a message, got {_kind(messages)}", param="messages")
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise RequestError(400, f"{place}: expected an object, got {_kind(message)}", param=place)
        if message.get("role") not in ROLES:
            raise RequestError(400, f"{place}.role: expected one of {', '.join(ROLES)}", param=f"{place}.role")
        if not isinstance(message.get("content"), str | list | None):
            got = _kind(message["content"])
            raise RequestError(400, f"{place}.content: expected text, parts or null, got {got}", param=place)
    try:
        turns = Chat({}).turns(messages, lambda: "")
    except (OddValueError, TypeError, AttributeError, RecursionError):
        raise RequestError(
            400, f"messages: only text can be read to choose an expert; {NAME_AN_EXPERT}", param="messages"
        ) from None
    return turns[:-1] if turns[-1][0] == "assistant" else turns


def chat_prompt(turns: Sequence[Turn]) -> str:
    """Turns as the prompt of a document.

    Raises:
        RequestError: there is nothing to read.
    """
    prompt = prompt_of(turns)
    if not prompt.strip():
        raise RequestError(400, f"messages: expected some text, got none; {NAME_AN_EXPERT}", param="messages")
    return prompt


def completion_prompts(body: dict[str, Any]) -> list[str]:
    """The prompts of a completion request.

    Raises:
        RequestError: there is none, or it is given as tokens.
    """
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        expected = f"prompt: expected text or a list of texts; for tokens {NAME_AN_EXPERT}"
        raise RequestError(400, expected, param="prompt")
    if not all(text.strip() for text in prompts):
        raise RequestError(400, f"prompt: expected some text, got none; {NAME_AN_EXPERT}", param="prompt")
    return prompts


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "an empty list" if value == [] else names[type(value)]
