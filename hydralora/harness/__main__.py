"""`python -m hydralora.harness --adapter FOLDER --tasks mmlu_medical --corpora DIR --limit 20`"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from hydralora.base_model import EMBEDDED, load_base_model
from hydralora.harness import BENCHMARKS, BenchmarkScore, evaluate_benchmarks
from hydralora.harness.sandbox import SandboxError
from hydralora.training.outputs.record import write_json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def main() -> None:
    """Command line: `python -m hydralora.harness`."""
    parser = argparse.ArgumentParser(prog="python -m hydralora.harness", description="The paper's benchmarks.")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--adapter", type=Path, help="folder of a trained adapter; its config names the base model")
    model.add_argument("--base-model", default=EMBEDDED, help="folder or hub id, to evaluate without an adapter")
    parser.add_argument("--tasks", nargs="+", required=True, choices=sorted(BENCHMARKS))
    parser.add_argument("--corpora", type=Path, help="folder of local Parquet files; default: the hub")
    parser.add_argument("--limit", type=int, help="evaluate only the first LIMIT documents of each task")
    parser.add_argument("--num-fewshot", type=int, help="examples before each question; default: the benchmark's own")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-gen-toks", type=int, help="largest number of tokens in a generated answer")
    parser.add_argument("--apply-chat-template", action="store_true")
    parser.add_argument(
        "--allow-code-execution", action="store_true", help="run programs that the model writes, inside bubblewrap"
    )
    parser.add_argument(
        "--unsafe-no-isolation", action="store_true", help="run them without bubblewrap, with all your rights"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the scores to this JSON file")
    options = vars(parser.parse_args())
    adapter, base_model, output = options.pop("adapter"), options.pop("base_model"), options.pop("output")
    try:
        scores = evaluate_benchmarks(*_load(adapter, base_model), **options)
    except (ValueError, OSError, ImportError, SandboxError) as error:
        parser.exit(2, f"{error}\n")
    print(_table(scores))
    if output is not None:
        write_json(output, [dataclasses.asdict(score) for score in scores])


def _load(adapter: Path | None, base_model: str) -> "tuple[nn.Module, PreTrainedTokenizerBase]":
    if adapter is None:
        return load_base_model(base_model)
    from peft import PeftConfig, PeftModel

    import hydralora  # noqa: F401 - registers HYDRALORA with PEFT

    model, tokenizer = load_base_model(PeftConfig.from_pretrained(adapter).base_model_name_or_path)
    return PeftModel.from_pretrained(model, adapter).eval(), tokenizer


def _table(scores: list[BenchmarkScore]) -> str:
    lines = ["| benchmark | task | metric | value | standard error | n |", "|---|---|---|---|---|---|"]
    for score in scores:
        stderr = "" if score.stderr is None else f"{score.stderr:.4f}"
        lines.append(
            f"| {score.benchmark} | {score.task} | {score.metric} | {score.value:.4f} | {stderr} | {score.n} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
