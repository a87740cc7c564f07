"""A mix of corpora as arrays, for the study of label-free experts: tokens, parts and groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def groupings_of(path: Path) -> set[str]:
    """Names of the groupings in the file of a mix."""
    with np.load(path, allow_pickle=False) as file:
        return {name.removeprefix("labels/") for name in file.files if name.startswith("labels/")}


@dataclass(frozen=True)
class Mix:
    """Documents of one mix. Arrays have one entry a document, `tokens` excepted.

    `rows`, `lengths`, `answer_starts`, `sources`, `parts` and `gates` are what `study_runs.fit` reads.

    Attributes:
        name: of the mix.
        tokens: token ids of all documents, one after the other.
        lengths: tokens of each document.
        answer_starts: position of the first token of the answer; the prompt stands before it.
        sources, tasks: indices into `source_names` and `task_names`.
        parts: "train", "validation", "test", or "unseen" (tasks that no training document has).
        labels: name of a grouping -> group of each document, int.
        source_tags, group_tags: tokens that stand for a source, or for the group of a number, in a prompt.
        tag_place: position at which a tag is put in: after what all prompts start with.
        facts: what was found out while the mix was made.
    """

    name: str
    tokens: NDArray[np.unsignedinteger]
    lengths: Ints
    answer_starts: Ints
    sources: Ints
    tasks: Ints
    parts: NDArray[np.str_]
    source_names: tuple[str, ...]
    task_names: tuple[str, ...]
    labels: Mapping[str, Ints]
    source_tags: tuple[tuple[int, ...], ...]
    group_tags: tuple[tuple[int, ...], ...]
    tag_place: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gates(self) -> dict[str, NDArray[np.float32]]:
        """Grouping -> one-hot rows [n_documents, N]."""
        return {name: np.eye(self.n_groups(name), dtype=np.float32)[groups] for name, groups in self.labels.items()}

    def n_groups(self, name: str) -> int:
        """N of a grouping. Predicted groups have the N of what they predict."""
        return int(max(self.labels[other].max() for other in (name, name.removesuffix("_text")))) + 1

    def indices(self, *parts: str) -> Ints:
        """Documents of these parts, in order."""
        return np.flatnonzero(np.isin(self.parts, parts))

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Its tokens."""
        end = int(self._ends[index])
        return self.tokens[end - int(self.lengths[index]) : end]

    def rows(self, indices: Ints, gates: str | None) -> list[dict[str, Any]]:
        """Documents as `hydralora.data.collate` takes them."""
        rows = []
        for i in indices:
            row = {"input_ids": self.document(i).astype(np.int64), "answer_start": int(self.answer_starts[i])}
            if gates is not None:
                row["expert_gates"] = self._gates[gates][i].tolist()
            rows.append(row)
        return rows

    def with_tags(self, tags: Sequence[Sequence[int]], groups: Ints) -> "Mix":
        """The same documents with the tag of each one's group in its prompt."""
        documents = [self.document(i) for i in range(len(self.lengths))]
        put = [np.asarray(tags[group], self.tokens.dtype) for group in groups]
        tagged = [np.insert(d, self.tag_place, tag) for d, tag in zip(documents, put, strict=True)]
        longer = np.array([len(tag) for tag in put])
        return replace(
            self,
            tokens=np.concatenate(tagged),
            lengths=self.lengths + longer,
            answer_starts=self.answer_starts + longer,
        )

    def take(self, indices: Ints) -> "Mix":
        """Some of the documents."""
        of_document = ("lengths", "answer_starts", "sources", "tasks", "parts")
        return replace(
            self,
            tokens=np.concatenate([self.document(i) for i in indices]),
            **{name: getattr(self, name)[indices] for name in of_document},
            labels={name: groups[indices] for name, groups in self.labels.items()},
        )

    def save(self, path: Path) -> None:
        """As .npz with small integer types."""
        import json

        arrays: dict[str, Any] = {
            "tokens": self.tokens,
            "lengths": self.lengths.astype(np.int16),
            "answer_starts": self.answer_starts.astype(np.int16),
            "sources": self.sources.astype(np.int16),
            "tasks": self.tasks.astype(np.int16),
            "parts": self.parts,
        }
        arrays |= {f"labels/{name}": groups.astype(np.int16) for name, groups in self.labels.items()}
        names = ("name", "source_names", "task_names", "source_tags", "group_tags", "tag_place", "facts")
        arrays["json"] = np.array(json.dumps({name: getattr(self, name) for name in names}))
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        import json

        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("tokens", "parts")}
            arrays |= {name: file[name].astype(np.int64) for name in ("lengths", "answer_starts", "sources", "tasks")}
            texts = json.loads(str(file["json"]))
            labels = {n.removeprefix("labels/"): file[n].astype(int) for n in file.files if n.startswith("labels/")}
        for name in ("source_names", "task_names", "source_tags", "group_tags"):
            texts[name] = tuple(texts[name])
        return cls(**arrays, **texts, labels=labels)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", np.cumsum(self.lengths))
        object.__setattr__(self, "_gates", self.gates)
