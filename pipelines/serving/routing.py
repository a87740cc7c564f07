"""Decides which LoRA answers a request."""

from dataclasses import dataclass
from typing import Any, Literal

from pipelines.serving.errors import ExportsError, RequestError
from pipelines.serving.requests.conversations import Choice, Conversations, named_key, prefix_keys
from pipelines.serving.requests.prompts import chat_prompt, completion_prompts, conversation_turns
from pipelines.serving.setup.exports import AUTO, Exports
from pipelines.serving.setup.settings import Settings

Endpoint = Literal["chat/completions", "completions"]
Reason = Literal["named", "prompt", "conversation", "unsure"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model answers, and why.

    Attributes:
        reason: `named` by the client, found in the `prompt`, kept from earlier in the `conversation`, or the fallback
            because the prompt left it `unsure`.
        probability: probability of the likeliest domain, where it was computed.
    """

    expert: str
    reason: Reason
    probability: float | None = None


class Router:
    """Decides for one set of exports.

    Raises:
        ExportsError: the fallback is not a model of the exports.
    """

    def __init__(self, exports: Exports, settings: Settings, conversations: Conversations) -> None:
        self.exports = exports
        self.models = (*exports.models, *([settings.base] if settings.base else []))
        self.fallback = exports.others if settings.fallback is None else settings.fallback
        if self.fallback not in self.models:
            raise ExportsError(f"fallback: expected one of {', '.join(self.models)}, got {self.fallback!r}")
        if settings.base in exports.models:
            raise ExportsError(f"base: expected a name that no LoRA has, got {settings.base!r}")
        self._threshold = settings.threshold
        self._conversations = conversations

    def decide(self, endpoint: Endpoint, body: dict[str, Any], name: bytes | None, client: bytes) -> Decision:
        """Choose the model of a request.

        Args:
            name: the client's name of the conversation.
            client: the key that identifies the client.

        Raises:
            RequestError: the model is unknown, or the prompt cannot be read.
        """
        model = body.get("model")
        if model != AUTO:
            return Decision(self._known(model), "named")
        named = None if name is None else named_key(name, client)
        if endpoint == "completions":
            earlier = [] if named is None else [named]
            return self._kept(earlier) or self._decided(self._of_prompts(body), named)
        turns = conversation_turns(body)
        keys = prefix_keys(turns) if named is None else [named]
        earlier = keys[:-1] if named is None else keys
        return self._kept(earlier) or self._decided(self.exports.expert_of(chat_prompt(turns)), keys[-1])

    def _known(self, model: Any) -> str:
        if model in self.models:
            return str(model)
        expected = f"model: expected {AUTO} or one of {', '.join(self.models)}"
        if isinstance(model, str):
            raise RequestError(404, f"{expected}, got {model[:100]!r}", param="model", code="model_not_found")
        raise RequestError(400, f"{expected}, as text", param="model")

    def _of_prompts(self, body: dict[str, Any]) -> Choice:
        """The choice that all prompts of a request share."""
        choices = [self.exports.expert_of(self.exports.without_frame(text)) for text in completion_prompts(body)]
        choice = min(choices, key=lambda choice: 1.0 if choice[1] is None else choice[1])
        if names := {name for name, _ in choices} - {choice[0]}:
            names |= {choice[0]}
            raise RequestError(
                400,
                f"prompt: the prompts belong to {', '.join(sorted(names))}; send a request for each",
                param="prompt",
            )
        return choice

    def _kept(self, keys: list[bytes]) -> Decision | None:
        choice = self._conversations.find(keys)
        if choice is None or choice[0] not in self.models:
            return None
        return Decision(choice[0], "conversation", choice[1])

    def _decided(self, choice: Choice, key: bytes | None) -> Decision:
        name, probability = choice
        if probability is not None and probability < self._threshold:
            return Decision(self.fallback, "unsure", probability)
        if name == self.exports.others:  # exports of a corpus with one expert
            return Decision(self.fallback, "unsure")
        if key is not None:
            self._conversations.keep(key, choice)
        return Decision(name, "prompt", probability)
