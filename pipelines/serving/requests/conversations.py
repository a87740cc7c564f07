"""Remembers the expert of a conversation, so that all its turns get the same one."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from threading import Lock

from analysis.sources.chat import Turn

Choice = tuple[str, float | None]
"""Name of a LoRA, and the probability with which it was chosen."""


class Conversations:
    """The choices of the conversations that were last used.

    Args:
        capacity: number of conversations. The one used longest ago is forgotten first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = Lock()  # long prompts are read by threads
        self._choices: OrderedDict[bytes, Choice] = OrderedDict()

    def __len__(self) -> int:
        return len(self._choices)

    def find(self, keys: Iterable[bytes]) -> Choice | None:
        """The choice under the first key that is known."""
        with self._lock:
            for key in keys:
                if choice := self._choices.get(key):
                    self._choices.move_to_end(key)
                    return choice
        return None

    def keep(self, key: bytes, choice: Choice) -> None:
        """Remember a choice."""
        with self._lock:
            self._choices[key] = choice
            self._choices.move_to_end(key)
            if len(self._choices) > self._capacity:
                self._choices.popitem(last=False)


def named_key(name: bytes, client: bytes) -> bytes:
    """Key of a conversation that the client names; `client` keeps those of different clients apart."""
    return blake2b(name, digest_size=16, key=blake2b(client, digest_size=16).digest()).digest()


def prefix_keys(turns: Sequence[Turn]) -> list[bytes]:
    """A key for the conversation up to each turn.

    A request begins with the turns of the conversation's earlier requests, so it finds the first choice that was made
    for them. Two conversations share a choice only if their turns were equal when it was made.
    """
    state = blake2b(digest_size=16)
    keys = []
    for speaker, text in turns:
        encoded = text.encode("utf-8", "surrogatepass")
        state.update(f"{speaker} {len(encoded)}\n".encode())
        state.update(encoded)
        keys.append(state.copy().digest())
    return keys
