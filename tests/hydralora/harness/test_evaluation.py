from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel

from hydralora import set_fixed_gates
from hydralora.harness import BenchmarkScore, evaluate_benchmarks
from hydralora.harness.language_model import SequenceGatesLM
from tests.hydralora.small import model_for_long_prompts, small_tokenizer

Row = dict[str, Any]


def rows(path: Path, **equal: str) -> list[Row]:
    return [
        row for row in pq.read_table(path).to_pylist() if all(row[column] == value for column, value in equal.items())
    ]


def log_likelihood(model: PeftModel, prompt: str, answer: str) -> float:
    """Slow and obvious: one sequence, no padding, no cache."""
    tokenizer = small_tokenizer()
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + answer)["input_ids"]
    with torch.no_grad():
        log_probabilities = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(float(log_probabilities[i - 1, ids[i]]) for i in range(start, len(ids)))


def greedy(model: PeftModel, prompt: str, num_tokens: int) -> str:
    """Slow and obvious: the whole sequence again for each token."""
    tokenizer = small_tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + num_tokens:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def requests(kind: str, arguments: Sequence[tuple[str, Any]], questions: Sequence[str] | None = None) -> list[Any]:
    questions = questions or [""] * len(arguments)
    return [
        Instance(kind, {"question": question}, pair, i)
        for i, (pair, question) in enumerate(zip(arguments, questions, strict=True))
    ]


PROMPTS = ["one", "two and more", "a longer prompt than the others", "short", "1 + 1 ="]
UNTIL = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False}


# --- prompts


# --- scores


class Hub:
    """Answers `datasets.load_dataset` as the hub does, in its columns, with the documents of local files."""

    def __init__(self, corpora: Path) -> None:
        self.corpora = corpora

    def __call__(self, path: str, name: str | None = None, **options: Any) -> datasets.DatasetDict:
        splits: dict[str, list[Row]]
        if path == "cais/mmlu":
            splits = {
                split: [
                    {
                        "question": row["question"],
                        "subject": name,
                        "choices": [row["A"], row["B"], row["C"], row["D"]],
                        "answer": "ABCD".index(row["answer"]),
                    }
                    for row in rows(self.corpora / f"mmlu_{split}.parquet", subject=str(name))
                ]
                for split in ("dev", "test")
            }
        elif path == "SaylorTwift/bbh":
            splits = {"test": rows(self.corpora / "bbh_test.parquet", task=str(name))}
        elif path == "openai/gsm8k":
            file = self.corpora / "gsm8k_test.parquet"
            splits = {"test": [{"question": row["instruction"], "answer": row["output"]} for row in rows(file)]}
        else:
            raise AssertionError(path)
        return datasets.DatasetDict({split: datasets.Dataset.from_list(docs) for split, docs in splits.items()})


def answers_of_a_better_model(correct: Callable[[Row], bool]) -> Callable[..., list[str]]:
    """Stands for HFLM.generate_until: worked answers to GSM8K, right for some of the documents."""

    def generate_until(self: HFLM, asked: list[Instance], disable_tqdm: bool = False) -> list[str]:
        targets = [request.doc["answer"].rpartition("#### ")[2] for request in asked]
        return [
            f" So it is. The answer is {target if correct(request.doc) else target + '1'}."
            for request, target in zip(asked, targets, strict=True)
        ]

    return generate_until


def test_scores_of_local_files_are_the_harness_own(shared_corpora: Path) -> None:
    """The same documents through the harness's unchanged tasks, which ask the hub, and through ours."""
    model = model_for_long_prompts()

    def scores(corpora: Path | None) -> list[BenchmarkScore]:
        return evaluate_benchmarks(model, small_tokenizer(), ["mmlu_medical", "mmlu_law"], corpora=corpora, limit=4)

    local = scores(shared_corpora)
    with patch.object(datasets, "load_dataset", Hub(shared_corpora)):
        assert scores(None) == local
    assert [(score.task, score.metric, score.n) for score in local] == [
        ("mmlu_medical", "acc", 12),
        ("mmlu_clinical_knowledge", "acc", 4),
        ("mmlu_professional_medicine", "acc", 4),
        ("mmlu_college_medicine", "acc", 4),
        ("mmlu_law", "acc", 8),
        ("mmlu_professional_law", "acc", 4),
        ("mmlu_international_law", "acc", 4),
    ]
    assert local[0].value == pytest.approx(sum(score.value for score in local[1:4]) / 3)


def test_answers_are_taken_from_text_as_the_harness_does(shared_corpora: Path) -> None:
    model = model_for_long_prompts()
    options: dict[str, Any] = {"limit": 6, "max_gen_toks": 4}
    with patch.object(HFLM, "generate_until", answers_of_a_better_model(lambda doc: "eggs" in doc["question"])):
        local = evaluate_benchmarks(model, small_tokenizer(), ["gsm8k"], corpora=shared_corpora, **options)
        with patch.object(datasets, "load_dataset", Hub(shared_corpora)):
            assert evaluate_benchmarks(model, small_tokenizer(), ["gsm8k"], **options) == local
    questions = [row["instruction"] for row in rows(shared_corpora / "gsm8k_test.parquet")[:6]]
    expected = sum("eggs" in question for question in questions) / 6
    assert 0 < expected < 1
    assert {score.metric: score.value for score in local} == {
        "exact_match, strict-match": expected,
        "exact_match, flexible-extract": expected,
    }


def test_bare_answers_count_with_their_leading_space(shared_corpora: Path) -> None:
    """The harness's own score is kept beside ours: it knows only answers without the space."""

    def generate_until(self: HFLM, asked: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [f" {request.doc['target']}" for request in asked]

    with patch.object(HFLM, "generate_until", generate_until):
        scores = evaluate_benchmarks(
            model_for_long_prompts(), small_tokenizer(), ["bbh_direct"], corpora=shared_corpora, limit=2
        )
    assert {(score.metric, score.value) for score in scores} == {("exact_match", 0.0), ("exact_match, stripped", 1.0)}
    assert [score.n for score in scores if score.task == "bbh_direct"] == [54, 54]


def test_accuracy_equals_a_slow_reference_at_any_batch_size(shared_corpora: Path) -> None:
    model = model_for_long_prompts()
    questions = rows(shared_corpora / "mmlu_test.parquet", subject="international_law")[:12]
    correct = 0
    for row in questions:
        prompt = "The following are multiple choice questions (with answers) about international law.\n\n"
        prompt += f"{row['question'].strip()}\nA. {row['A']}\nB. {row['B']}\nC. {row['C']}\nD. {row['D']}\nAnswer:"
        likelihoods = {letter: log_likelihood(model, prompt, f" {letter}") for letter in "ABCD"}
        correct += max(likelihoods, key=likelihoods.__getitem__) == row["answer"]
    assert 0 < correct < 12
    model.train()
    for batch_size in (1, 5):
        scores = evaluate_benchmarks(
            model, small_tokenizer(), ["mmlu_law"], corpora=shared_corpora, limit=12, batch_size=batch_size
        )
        by_task = {score.task: score.value for score in scores}
        assert by_task["mmlu_international_law"] == pytest.approx(correct / 12)
    assert model.training


@pytest.mark.parametrize("router_input", ["low_rank", "hidden"])
def test_a_live_router_answers_alike_at_any_batch_size(router_input: str) -> None:
    """Also with padding and with the cache of keys and values: against one sequence, whole, for each token."""
    model = model_for_long_prompts(router_input=router_input)
    generation = requests("generate_until", [(prompt, UNTIL) for prompt in PROMPTS])
    choices = requests("loglikelihood", [(prompt, f" {letter}") for prompt in PROMPTS for letter in "AB"])
    expected = [log_likelihood(model, *request.args) for request in choices]
    for batch_size in (1, 3):
        language_model = HFLM(pretrained=model, tokenizer=small_tokenizer(), batch_size=batch_size)
        assert language_model.generate_until(generation) == [greedy(model, prompt, 6) for prompt in PROMPTS]
        likelihoods = [value for value, _ in language_model.loglikelihood(choices)]
        torch.testing.assert_close(torch.tensor(likelihoods), torch.tensor(expected), atol=1e-4, rtol=1e-5)


# --- gates from outside


def test_each_question_gets_its_gates() -> None:
    model = model_for_long_prompts(router_input="given")
    questions = ["law", "medicine", "law", "code", "medicine"]
    gates = {"law": [1.0, 0, 0], "medicine": [0, 1.0, 0], "code": [0.2, 0.3, 0.5]}
    asked: list[list[str]] = []

    def gates_of(prompts: Sequence[str]) -> torch.Tensor:
        asked.append(list(prompts))
        return torch.tensor([gates[prompt] for prompt in prompts])

    language_model = SequenceGatesLM(gates_of, pretrained=model, tokenizer=small_tokenizer(), batch_size=2)
    choices = requests("loglikelihood", [(prompt, " B") for prompt in PROMPTS], questions)
    generation = requests("generate_until", [(prompt, UNTIL) for prompt in PROMPTS], questions)
    likelihoods = [value for value, _ in language_model.loglikelihood(choices)]
    texts = language_model.generate_until(generation)
    assert asked == [["law", "medicine", "code"]] * 2
    for prompt, question, likelihood, text in zip(PROMPTS, questions, likelihoods, texts, strict=True):
        set_fixed_gates(model, torch.tensor(gates[question]))
        assert likelihood == pytest.approx(log_likelihood(model, prompt, " B"), abs=1e-4)
        assert text == greedy(model, prompt, 6)
    assert len(set(texts)) > 1


def test_gates_reach_a_benchmark(shared_corpora: Path) -> None:
    model = model_for_long_prompts(router_input="given")
    asked: list[str] = []

    def gates_of(prompts: Sequence[str]) -> torch.Tensor:
        asked.extend(prompts)
        return torch.eye(3)[[i % 3 for i in range(len(prompts))]]

    evaluate_benchmarks(model, small_tokenizer(), ["mmlu_law"], corpora=shared_corpora, limit=2, gates=gates_of)
    subjects = ("professional_law", "international_law")
    files = [rows(shared_corpora / "mmlu_test.parquet", subject=subject)[:2] for subject in subjects]
    assert sorted(asked) == sorted(row["question"] for file in files for row in file)


def test_gates_must_fit_the_adapter() -> None:
    with pytest.raises(ValueError, match="router_input='given': pass `gates`"):
        evaluate_benchmarks(model_for_long_prompts(router_input="given"), small_tokenizer(), ["gsm8k"])
    with pytest.raises(ValueError, match="no active adapter takes them"):
        evaluate_benchmarks(model_for_long_prompts(), small_tokenizer(), ["gsm8k"], gates=lambda prompts: torch.eye(3))


# --- code


def test_code_runs_only_when_allowed(shared_corpora: Path) -> None:
    with (
        patch("subprocess.run", side_effect=AssertionError),
        pytest.raises(ValueError, match=r"allow_code_execution=True \(--allow-code-execution\)"),
    ):
        evaluate_benchmarks(model_for_long_prompts(), small_tokenizer(), ["humaneval"], corpora=shared_corpora)


def test_humaneval_draws_ten_programs_for_each_problem(shared_corpora: Path) -> None:
    solutions = {row["task_id"]: row for row in rows(shared_corpora / "humaneval_test.parquet")[:2]}
    prompts: list[str] = []

    def generate_until(self: HFLM, asked: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The first problem solved in 4 of 10 programs, the second in none."""
        prompts.extend(request.args[0] for request in asked)
        assert all(request.args[1]["do_sample"] for request in asked)
        right = [request.doc["task_id"] == "HumanEval/0" and i % 10 < 4 for i, request in enumerate(asked)]
        return [
            solutions[request.doc["task_id"]]["canonical_solution"] if solved else "    return None\n"
            for request, solved in zip(asked, right, strict=True)
        ]

    with patch.object(HFLM, "generate_until", generate_until):
        scores = evaluate_benchmarks(
            model_for_long_prompts(),
            small_tokenizer(),
            ["humaneval"],
            corpora=shared_corpora,
            limit=2,
            allow_code_execution=True,
        )
    assert prompts == [row["prompt"] for row in solutions.values() for _ in range(10)]
    assert {score.metric: (score.value, score.n) for score in scores} == {
        "pass@1": (pytest.approx(0.2), 2),
        "pass@10": (0.5, 2),
    }
