"""Local Parquet files in the form of the hub's data sets that the harness expects: same splits, same columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import DatasetDict

Row = dict[str, Any]


def read_mmlu(corpora: Path, subject: str) -> "DatasetDict":
    """Read `mmlu_test.parquet` and `mmlu_dev.parquet` in the form of cais/mmlu.

    Their columns are `subject, question, A, B, C, D, answer`; the answer is a letter.
    """
    columns = ("question", "A", "B", "C", "D", "answer")
    return _dataset(
        {
            split: [
                {
                    "question": row["question"],
                    "subject": subject,
                    "choices": [row[letter] for letter in "ABCD"],
                    "answer": {"A": 0, "B": 1, "C": 2, "D": 3}[row["answer"]],
                }
                for row in _rows(corpora / f"mmlu_{split}.parquet", columns, ("subject", subject))
            ]
            for split in ("test", "dev")
        }
    )


def read_gsm8k(corpora: Path, subset: str) -> "DatasetDict":
    """Read `gsm8k_test.parquet` (`instruction, output`) in the form of openai/gsm8k. The harness has the examples."""
    rows = _rows(corpora / "gsm8k_test.parquet", ("instruction", "output"))
    return _dataset({"test": [{"question": row["instruction"], "answer": row["output"]} for row in rows]})


def read_bbh(corpora: Path, subset: str) -> "DatasetDict":
    """Read one task of `bbh_test.parquet` (`task, input, target`). The harness has the examples."""
    return _dataset({"test": _rows(corpora / "bbh_test.parquet", ("input", "target"), ("task", subset))})


def read_humaneval(corpora: Path, subset: str) -> "DatasetDict":
    """Read `humaneval_test.parquet` in the form of openai/openai_humaneval."""
    columns = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    return _dataset({"test": _rows(corpora / "humaneval_test.parquet", columns)})


def _dataset(splits: Mapping[str, Sequence[Row]]) -> "DatasetDict":
    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_list(list(rows)) for split, rows in splits.items()})


def _rows(path: Path, columns: Sequence[str], equal: tuple[str, str] | None = None) -> list[Row]:
    """Rows of a Parquet file; with `equal` = (column, value), only the rows with that value.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If columns are missing or there are no rows.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FileNotFoundError(f"Expected the benchmark's documents in {path}, found no such file. Check `corpora`.")
    needed = {*columns, *(equal[:1] if equal else ())}
    if missing := needed - set(pq.read_schema(path).names):
        raise ValueError(f"{path} lacks the columns {sorted(missing)}")
    filters = None if equal is None else [(equal[0], "==", equal[1])]
    rows: list[Row] = pq.read_table(path, columns=list(columns), filters=filters).to_pylist()
    if not rows:
        raise ValueError(f"Expected documents in {path}{f' with {equal[0]} {equal[1]!r}' if equal else ''}, got none")
    return rows
