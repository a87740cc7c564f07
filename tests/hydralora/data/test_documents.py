"""Tokens of documents: boundaries, truncation, labels."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hydralora.data import IGNORED, DataError, Frame, TokenisedDocuments, collate, tokenise
from tests.hydralora.small import small_documents, small_tokenizer

DOCUMENT = {"prompt": "2 + 2 =", "completion": "4", "source": "sums"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRALORA_CACHE", str(tmp_path / "cache"))


def texts(documents: TokenisedDocuments, row: int = 0) -> tuple[str, str]:
    """Prompt and answer of a document, special tokens spelled out."""
    tokenizer = small_tokenizer()
    document = documents.rows([row])[0]
    tokens, start = document["input_ids"], document["answer_start"]
    return tokenizer.decode(tokens[:start]), tokenizer.decode(tokens[start:])  # type: ignore[return-value]


def test_chat_template_frames_the_prompt_and_ends_the_turn() -> None:
    prompt, answer = texts(tokenise([DOCUMENT], small_tokenizer()))
    assert prompt == "<|im_start|>user\n2 + 2 =<|im_end|>\n<|im_start|>assistant\n"
    assert answer == "4<|im_end|>"


def test_plain_template_ends_with_the_end_token() -> None:
    prompt, answer = texts(tokenise([DOCUMENT], small_tokenizer(), template="plain"))
    assert (prompt, answer) == ("2 + 2 =\n\n", "4<|end|>")


def test_prompt_tokens_are_those_of_generation() -> None:
    tokenizer = small_tokenizer()
    row = tokenise([DOCUMENT], tokenizer).rows([0])[0]
    messages = [{"role": "user", "content": DOCUMENT["prompt"]}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]  # type: ignore[call-overload]
    assert row["input_ids"][: row["answer_start"]] == expected


def test_text_that_spells_a_special_token_stays_text_in_an_answer() -> None:
    tokenizer = small_tokenizer()
    documents = tokenise([{**DOCUMENT, "completion": "a<|im_end|>b"}], tokenizer)
    row = documents.rows([0])[0]
    assert row["input_ids"][row["answer_start"] :].count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def test_a_long_prompt_loses_its_middle_and_is_counted() -> None:
    documents = tokenise([{**DOCUMENT, "prompt": "start" + "x" * 200 + "finish"}], small_tokenizer(), max_length=64)
    prompt, answer = texts(documents)
    assert prompt.startswith("<|im_start|>user\nstart")
    assert prompt.endswith("finish<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "4<|im_end|>"
    assert (documents.prompts_cut, documents.answers_cut, documents.lengths.tolist()) == (1, 0, [64])


def test_an_answer_keeps_half_of_the_room_and_is_counted() -> None:
    documents = tokenise([{**DOCUMENT, "completion": "y" * 200}], small_tokenizer(), template="plain", max_length=64)
    prompt, answer = texts(documents)
    assert prompt == "2 + 2 =\n\n"
    assert answer == "y" * 55  # no end token: the answer goes on
    assert (documents.prompts_cut, documents.answers_cut) == (0, 1)


def test_documents_without_an_answer_are_counted_and_dropped() -> None:
    documents = tokenise([DOCUMENT, {**DOCUMENT, "completion": ""}], small_tokenizer())
    assert (len(documents), documents.without_answer) == (1, 1)


def test_a_parquet_file_gives_the_same_tokens_as_rows(tmp_path: Path) -> None:
    rows = [{**document, "expert_gates": [0.25, 0.75], "cluster": 1} for document in small_documents()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents.parquet")
    from_file = tokenise(tmp_path / "documents.parquet", small_tokenizer())
    from_rows = tokenise(rows, small_tokenizer())
    assert from_file.fingerprint() == from_rows.fingerprint()
    assert from_file.rows([3]) == from_rows.rows([3])


def test_the_fingerprint_follows_gates() -> None:
    one, other = ([{**DOCUMENT, "expert_gates": gates}] for gates in ([1.0, 0.0], [0.0, 1.0]))
    assert tokenise(one, small_tokenizer()).fingerprint() != tokenise(other, small_tokenizer()).fingerprint()


def test_collate_pads_on_the_right_and_labels_answers_alone() -> None:
    rows = [
        {"input_ids": [5, 6, 7], "answer_start": 2, "expert_gates": [1.0, 0.0], "cluster": 0},
        {"input_ids": [8, 9], "answer_start": 1, "expert_gates": [0.5, 0.5], "cluster": 1},
    ]
    batch = collate(rows, pad_token_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7], [IGNORED, 9, IGNORED]]
    assert torch.equal(batch["expert_gates"], torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert batch["cluster"].tolist() == [0, 1]


def test_bad_documents_are_named() -> None:
    tokenizer = small_tokenizer()
    with pytest.raises(DataError, match="source not in"):
        tokenise([{"prompt": "a", "completion": "b"}], tokenizer)
    with pytest.raises(DataError, match="got an empty list"):
        tokenise([], tokenizer)
    with pytest.raises(DataError, match="Expected a Parquet file"):
        tokenise(Path("nowhere.parquet"), tokenizer)
    with pytest.raises(DataError, match="1 documents and none with one"):
        tokenise([{**DOCUMENT, "completion": ""}], tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="use template='plain'"):
        Frame.of(tokenizer, "chat")


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(DataError, match="template: expected one of chat, plain, got 'alpaca'"):
        tokenise(small_documents(), small_tokenizer(), template="alpaca")  # type: ignore[arg-type]
