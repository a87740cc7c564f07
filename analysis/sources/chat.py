"""Turns a conversation into an instruction pair: everything before the last answer, and the last answer."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from analysis.sources.messages import (
    CONTENT_FIELDS,
    PLAIN_FIELDS,
    Message,
    as_list,
    content_of,
    is_result,
    is_thought,
    own_calls,
    result_of,
    untrained,
)
from analysis.sources.records import SettingError, SourceError
from analysis.sources.values import OddValueError, decoded, describe, text_of

Speaker = Literal["system", "user", "assistant", "tool"]
SPEAKERS: tuple[Speaker, ...] = ("system", "user", "assistant", "tool")
KNOWN_ROLES: Mapping[str, Speaker] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "ai", "chatgpt", "chatbot", "bing", "bard"), "assistant"),
    **dict.fromkeys(("claude", "gemini", "llama", "gpt-3.5", "gpt-4", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
LABELS: Mapping[Speaker, str] = {"system": "", "user": "User: ", "assistant": "Assistant: ", "tool": "Tool: "}
Turn = tuple[Speaker, str]


class Chat:
    """Reads the conversations of one file.

    Args:
        roles: additional role names and their meaning, from the user: `{narrator: user}`.

    Attributes:
        unknown: unknown role name -> place of its first message.
        unused: non-empty message fields that were not read.
        unanswered: place of each conversation that goes on after its last answer.
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        wrong = {name: speaker for name, speaker in roles.items() if speaker not in SPEAKERS}
        if wrong:
            raise SourceError(f"roles: expected each name to mean one of {list(SPEAKERS)}, got {wrong}")
        self._speakers: dict[str, Speaker] = dict(KNOWN_ROLES)
        self._speakers |= {name.strip().casefold(): speaker for name, speaker in roles.items()}  # type: ignore[misc]
        self.unknown: dict[str, str] = {}
        self.unused: dict[str, None] = {}
        self.unanswered: list[str] = []

    def check(self) -> None:
        """Refuse role names without a known meaning.

        Raises:
            SourceError: there are unknown role names. The message lists all of them.
        """
        if self.unknown:
            name, place = next(iter(self.unknown.items()))
            raise SettingError(
                f"{place}: unknown roles in the messages: {sorted(self.unknown)}; expected system, user, "
                f"assistant, tool or a common name like these. Say who speaks: roles: {{{json.dumps(name)}: user}}"
            )

    def turns(self, value: Any, place: Callable[[], str]) -> list[Turn]:
        """The turns of a conversation, in order.

        Args:
            value: a list of messages, JSON text of such a list, an object of equally long lists, or None.
            place: function that returns the place in the file, for error messages.

        Raises:
            OddValueError: the value is none of these, or the content of a message is not text.
        """
        messages = self._up_to_trained(as_list(value))
        turns = [turn for message in messages for turn in self._turns(message, place)]
        if turns and turns[-1][0] != "assistant" and any(speaker == "assistant" for speaker, _ in turns):
            self.unanswered.append(place())
        return turns

    def _speaker(self, role: str) -> Speaker | None:
        return self._speakers.get(role) or self._speakers.get(role.strip().casefold())

    def _up_to_trained(self, messages: list[Message]) -> list[Message]:
        """Without the last answers if these must not be trained on, and without what stands after them."""
        stop = len(messages)
        for i in range(len(messages) - 1, -1, -1):
            role = str(messages[i].get("role") or messages[i].get("from"))
            if self._speaker(role) == "assistant":
                if not untrained(messages[i]):
                    break
                stop = i
        if stop < len(messages):
            self.unused.setdefault("weight: 0 or train: false (do not train on this message)")
        return messages[:stop]

    def _turns(self, message: Message, place: Callable[[], str]) -> Iterator[Turn]:
        """The turns of a message: one, or two if the user's message begins with results of tools, none for thoughts."""
        if is_thought(message):
            self.unused.setdefault("messages of the channel analysis")
            return
        content = message.get("content")
        if isinstance(content, list) and any(map(is_result, content)):
            yield "tool", content_of([part for part in content if is_result(part)], self.unused)
            content = [part for part in content if not is_result(part)]
            if content:
                yield self._turn({**message, "content": content}, place)
            return
        yield self._turn(message, place)

    def _turn(self, message: Message, place: Callable[[], str]) -> Turn:
        role = message.get("role")
        role = message.get("from") if role is None else role
        if not isinstance(role, str | int) or isinstance(role, bool):
            raise OddValueError(f"found {describe(message)} as a message; expected role and content, or from and value")
        if message.keys().isdisjoint(CONTENT_FIELDS) and message.keys() - {"role", "from", *PLAIN_FIELDS}:
            raise OddValueError(
                f"found {describe(message)} as a message, without content or value. Rename the field with its text"
            )
        name = str(role)
        speaker = self._speaker(name)
        if speaker is None:
            self.unknown.setdefault(name, place())
            speaker = "user"
        content = message.get("content")
        if content is None:
            content = message.get("value")
        elif message.get("value") not in (None, "", content):
            self.unused.setdefault("value (beside content)")
        if speaker == "tool":
            content = result_of(content)
        text = content if type(content) is str else content_of(content, self.unused)
        if len(message) > 2 or content is None:
            text = "\n".join(part for part in (text, *own_calls(message, self.unused)) if part)
        return speaker, text


def history_turns(value: Any) -> Iterator[Turn]:
    """Turns from the history of an Alpaca record: pairs of question and answer, JSON text of such pairs, or None.

    Raises:
        OddValueError: the value is none of these.
    """
    if isinstance(value, str):
        value = parsed(value)
    for pair in value or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise OddValueError(f"found {describe(pair)} in the history; expected pairs of a question and an answer")
        yield "user", text_of(pair[0]) or ""
        yield "assistant", text_of(pair[1]) or ""


def parsed(text: str) -> Any:
    """Parse a list that is stored as JSON text; None for an empty cell."""
    if not text.strip():
        return None
    try:
        value = decoded(text)
    except ValueError as error:
        raise OddValueError(f"found the text {text[:40]!r}; expected a list, or a list as JSON text") from error
    if not isinstance(value, list):
        raise OddValueError(f"found {describe(value)} as JSON text; expected a list")
    return value


def pair(turns: Sequence[Turn]) -> tuple[str, str]:
    """Prompt (everything before the last answer) and completion (the last answer, "" if there is none)."""
    last = next((i for i in range(len(turns) - 1, -1, -1) if turns[i][0] == "assistant"), len(turns))
    return prompt_of(turns[:last]), "".join(text for _, text in turns[last : last + 1])


def prompt_of(turns: Sequence[Turn]) -> str:
    """Several turns as one text. Speakers are named only if there is an earlier answer or a tool result."""
    if any(speaker in ("assistant", "tool") for speaker, _ in turns):
        return "\n\n".join(LABELS[speaker] + text for speaker, text in turns)
    return "\n\n".join(text for _, text in turns)
