"""The harness as it is called: its errors, what it imports, its command line."""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import LlamaForCausalLM

from hydralora.harness import __main__, evaluate_benchmarks
from tests.hydralora.small import model_for_long_prompts, small_tokenizer


def test_unknown_tasks_and_missing_files(tmp_path: Path) -> None:
    model, tokenizer = model_for_long_prompts(), small_tokenizer()
    with pytest.raises(ValueError, match=r"Expected some of \['bbh', .*\], got \['mmmlu'\]"):
        evaluate_benchmarks(model, tokenizer, ["mmmlu"])
    with pytest.raises(ValueError, match="`limit` of at least 1, or None for all documents, got 0"):
        evaluate_benchmarks(model, tokenizer, ["gsm8k"], corpora=tmp_path, limit=0)
    with pytest.raises(FileNotFoundError, match=r"gsm8k_test\.parquet, found no such file"):
        evaluate_benchmarks(model, tokenizer, ["gsm8k"], corpora=tmp_path)
    pq.write_table(pa.table({"instruction": ["1 + 1?"]}), tmp_path / "gsm8k_test.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns \['output'\]"):
        evaluate_benchmarks(model, tokenizer, ["gsm8k"], corpora=tmp_path)
    pq.write_table(pa.table({"task": ["x"], "input": ["y"], "target": ["z"]}), tmp_path / "bbh_test.parquet")
    with pytest.raises(ValueError, match="with task 'boolean_expressions', got none"):
        evaluate_benchmarks(model, tokenizer, ["bbh_direct"], corpora=tmp_path)


def test_a_missing_harness_is_said_before_anything_else() -> None:
    with patch("importlib.util.find_spec", return_value=None), pytest.raises(ImportError, match=r"hydralora\[eval\]"):
        evaluate_benchmarks(model_for_long_prompts(), small_tokenizer(), ["gsm8k"])


def test_the_harness_is_imported_late() -> None:
    code = "import sys, hydralora.harness; sys.exit('lm_eval' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_line(
    shared_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path / "base")
    model = model_for_long_prompts()
    model.get_base_model().name_or_path = model.peft_config["default"].base_model_name_or_path = base
    LlamaForCausalLM(model.config).save_pretrained(base)
    small_tokenizer().save_pretrained(base)
    model.save_pretrained(tmp_path / "adapter")
    arguments = ["--adapter", str(tmp_path / "adapter"), "--corpora", str(shared_corpora), "--limit", "2", "--tasks"]

    monkeypatch.setattr(sys, "argv", ["harness", *arguments, "mmlu_law", "--output", str(tmp_path / "scores.json")])
    __main__.main()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [score["task"] for score in scores] == ["mmlu_law", "mmlu_professional_law", "mmlu_international_law"]
    assert f"| mmlu_law | mmlu_law | acc | {scores[0]['value']:.4f} |" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["harness", *arguments, "humaneval"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "--allow-code-execution" in capsys.readouterr().err
