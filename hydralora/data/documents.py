"""Documents as tokens: templates, answer-only labels, and a truncation that never silently loses an answer."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray

from hydralora.base_model import default_cache_dir
from hydralora.data.template import DataError, Frame, Template

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's cross entropy ignores this label
Batch = dict[str, Any]  # tensors; packed batches also have integers
_OPTIONAL_COLUMNS = ("document_id", "cluster", "expert_gates")
_COUNTS = "counts.json"  # written last, beside the tokens


@dataclasses.dataclass(frozen=True)
class TokenisedDocuments:
    """Memory-mapped token sequences of documents, and counts of those that did not fit.

    Attributes:
        dataset: Columns `input_ids`, `answer_start` (position of the answer's first token), `length`, `source`, and
            `document_id`, `cluster`, `expert_gates` if the documents have them.
        template: Template with which the documents were tokenised.
        prompts_cut: Number of documents whose prompt was cut.
        answers_cut: Number of documents whose answer was cut.
        without_answer: Number of documents that were dropped because they have no answer.
    """

    dataset: "Dataset"
    template: Template
    max_length: int
    prompts_cut: int
    answers_cut: int
    without_answer: int

    def __len__(self) -> int:
        return len(self.dataset)

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return list(self.dataset[name][:])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.asarray(self.column("length"), dtype=np.int64)

    @property
    def counts(self) -> dict[str, Any]:
        """Template, maximum length and the counts of what did not fit, for the record of a run."""
        names = ("template", "max_length", "prompts_cut", "answers_cut", "without_answer")
        return {name: getattr(self, name) for name in names}

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
        """Rows of the documents with these indices, in the order of `indices`."""
        columns = self.dataset[[int(index) for index in indices]]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "TokenisedDocuments":
        """The documents with these indices, in the order of `indices`."""
        # In memory: otherwise `datasets` writes the list of rows into the finished folder of the tokens.
        chosen = self.dataset.select([int(index) for index in indices], keep_in_memory=True)
        return dataclasses.replace(self, dataset=chosen)

    def with_columns(self, columns: Mapping[str, Sequence[Any]]) -> "TokenisedDocuments":
        """The documents with new or replaced columns; a column has one value for each document."""
        dataset = self.dataset
        with _quiet_datasets(), _no_cache_files():
            for name, values in columns.items():
                if name in dataset.column_names:
                    dataset = dataset.remove_columns(name)
                dataset = dataset.add_column(name, list(values))
        return dataclasses.replace(self, dataset=dataset)

    def for_adapter(self, config: Any) -> "TokenisedDocuments":
        """The documents without `expert_gates`, unless the adapter has router_input="given"."""
        takes_gates = getattr(config, "router_input", None) == "given"
        if takes_gates or "expert_gates" not in self.dataset.column_names:
            return self
        return dataclasses.replace(self, dataset=self.dataset.remove_columns("expert_gates"))

    def save(self, folder: Path) -> None:
        """Write the tokens, so that other processes can memory-map them and do not tokenise again."""
        with _quiet_datasets():
            self.dataset.save_to_disk(folder)
        state = folder / "state.json"  # replace its random fingerprint, so that the same content gives the same bytes
        content = {**json.loads(state.read_text()), "_fingerprint": self.fingerprint()}
        state.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        (folder / _COUNTS).write_text(json.dumps(self.counts) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TokenisedDocuments":
        """Load a folder that `save` wrote.

        Raises:
            DataError: If the folder has no tokenised documents.
        """
        from datasets import load_from_disk

        if not (folder / _COUNTS).is_file():
            raise DataError(f"Expected a folder of tokenised documents at {folder}, found none")
        return cls(load_from_disk(folder), **json.loads((folder / _COUNTS).read_text()))

    def fingerprint(self) -> str:
        """Hash of all columns of all documents in order, 16 hex digits."""
        digest = hashlib.blake2b(digest_size=8)
        for rows in self.dataset.iter(batch_size=1000):
            for name in sorted(rows):
                digest.update(repr((name, rows[name])).encode())
        return digest.hexdigest()


def tokenise(
    documents: "Path | str | Dataset | Sequence[Mapping[str, Any]]",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    template: Template = "chat",
    max_length: int = 512,
) -> TokenisedDocuments:
    """Tokenise documents and mark where each answer starts.

    Prompt and answer are tokenised separately and then joined, as in generation: the tokens of a prompt do not depend
    on the answer after it. The answer ends with the token at which generation stops.

    A document longer than `max_length` loses the middle of its prompt; the template's text at both ends stays. An
    answer is cut at its end only if the document is too long and the answer exceeds half of `max_length`; a cut answer
    has no end token.

    Args:
        documents: A Parquet file or rows with `prompt`, `completion`, `source` and optionally `document_id`, `cluster`,
            `expert_gates` (one weight for each expert).
        template: `"chat"` is the tokenizer's chat template, `"plain"` a blank line between prompt and answer.

    Raises:
        DataError: If there are no documents, a column is missing, or the tokenizer has no chat template or end token.
    """
    frame = Frame.of(tokenizer, template)
    with _quiet_datasets():
        rows = _select_columns(as_dataset(documents))
        tokens = rows.map(
            _tokenise_rows,
            batched=True,
            remove_columns=["prompt", "completion"],
            fn_kwargs={"tokenizer": tokenizer, "frame": frame, "max_length": max_length},
        )
        prompts_cut, answers_cut = sum(tokens["prompt_cut"][:]), sum(tokens["answer_cut"][:])
        tokens = tokens.remove_columns(["prompt_cut", "answer_cut"])
        usable = tokens.filter(_has_answer, input_columns=["answer_start", "length"])
    if len(usable) == 0:
        raise DataError(f"Expected documents with an answer, got {len(rows)} documents and none with one")
    without_answer = len(tokens) - len(usable)
    return TokenisedDocuments(usable, template, max_length, prompts_cut, answers_cut, without_answer)


def collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> Batch:
    """One right-padded batch; `labels` are `IGNORED` outside the answers.

    Args:
        rows: Documents of a `TokenisedDocuments`.
        pad_token_id: Token that fills `input_ids` where `attention_mask` is 0.

    Returns:
        `input_ids`, `attention_mask`, `labels` [batch, longest], and `expert_gates` [batch, N] and
        `cluster` [batch] if the rows have them.
    """
    shape = (len(rows), max(len(row["input_ids"]) for row in rows))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens, start = torch.as_tensor(row["input_ids"]), row["answer_start"]
        input_ids[i, : len(tokens)] = tokens
        attention_mask[i, : len(tokens)] = 1
        labels[i, start : len(tokens)] = tokens[start:]
    batch: Batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    if "expert_gates" in rows[0]:
        batch["expert_gates"] = torch.tensor([row["expert_gates"] for row in rows], dtype=torch.float32)
    if rows[0].get("cluster") is not None:
        batch["cluster"] = torch.tensor([row["cluster"] for row in rows])
    return batch


def answer_index(labels: Integer[torch.Tensor, "batch length"]) -> Integer[torch.Tensor, " n"]:
    """Positions whose next token is of an answer, counted through the flattened batch: [answer tokens].

    Args:
        labels: Labels [batch, length], `IGNORED` outside the answers.
    """
    is_answer = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))
    return is_answer.flatten().nonzero()[:, 0]


def pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The padding token, or the end token if the tokenizer has none (padding is masked anyway)."""
    token = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(token)


def _tokenise_rows(
    rows: Mapping[str, list[Any]], tokenizer: "PreTrainedTokenizerBase", frame: Frame, max_length: int
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("input_ids", "answer_start", "length", "prompt_cut", "answer_cut")
    }
    prompts = frame.prompt_tokens(tokenizer, rows["prompt"])
    answers = frame.answer_tokens(tokenizer, rows["completion"])
    for prompt, answer in zip(prompts, answers, strict=True):
        answer_room = max(max_length - len(prompt), max_length // 2)
        columns["answer_cut"].append(len(answer) > answer_room)
        answer = answer[:answer_room]
        prompt_room = max_length - len(answer)
        columns["prompt_cut"].append(len(prompt) > prompt_room)
        prompt = without_middle(prompt, prompt_room)
        columns["input_ids"].append(prompt + answer)
        columns["answer_start"].append(len(prompt))
        columns["length"].append(len(prompt) + len(answer))
    return columns


def without_middle(tokens: list[int], length: int) -> list[int]:
    """At most `length` of the tokens: the first and the last ones, as a template stands at both ends of a prompt."""
    return tokens if len(tokens) <= length else [*tokens[: length - length // 2], *tokens[len(tokens) - length // 2 :]]


def _has_answer(answer_start: int, length: int) -> bool:
    return answer_start < length


def as_dataset(documents: "Path | str | Dataset | Sequence[Mapping[str, Any]]") -> "Dataset":
    """Rows, or the Parquet file at a path, as a data set.

    Raises:
        DataError: There is no such file, or there are no rows.
    """
    from datasets import Dataset

    if isinstance(documents, Dataset):
        return documents
    if isinstance(documents, (str, Path)):
        if not Path(documents).is_file():
            raise DataError(f"Expected a Parquet file of documents at {documents}, found none")
        return Dataset.from_parquet(str(documents), cache_dir=str(default_cache_dir() / "datasets"))
    if not documents:
        raise DataError("Expected documents, got an empty list")
    return Dataset.from_list([dict(document) for document in documents])


def _select_columns(rows: "Dataset") -> "Dataset":
    required = ("prompt", "completion", "source")
    missing = [name for name in required if name not in rows.column_names]
    if missing:
        raise DataError(f"Expected the columns {', '.join(required)}; {', '.join(missing)} not in {rows.column_names}")
    return rows.select_columns([*required, *(name for name in _OPTIONAL_COLUMNS if name in rows.column_names)])


def _quiet_datasets() -> AbstractContextManager[None]:
    """Without progress bars for steps of a few seconds."""
    import datasets

    is_on = not datasets.are_progress_bars_disabled()
    return _switched_off(is_on, datasets.disable_progress_bars, datasets.enable_progress_bars)


def _no_cache_files() -> AbstractContextManager[None]:
    """Keep what `datasets` computes on the way in temporary files, not beside the finished files that it reads."""
    import datasets

    return _switched_off(datasets.is_caching_enabled(), datasets.disable_caching, datasets.enable_caching)


@contextmanager
def _switched_off(is_on: bool, switch_off: Callable[[], None], switch_on: Callable[[], None]) -> Iterator[None]:
    """Switch a setting of a library off within the context, unless the caller has done so."""
    if not is_on:
        yield
        return
    switch_off()
    try:
        yield
    finally:
        switch_on()
