"""Prompts of the benchmarks are those of their authors."""

from pathlib import Path

from hydralora.harness.benchmarks import load_tasks
from tests.hydralora.harness.test_evaluation import rows


def test_mmlu_asks_without_examples(shared_corpora: Path) -> None:
    tasks, members = load_tasks(["mmlu_law", "mmlu"], shared_corpora)
    assert members["mmlu_law"] == ["mmlu_professional_law", "mmlu_international_law"]
    assert len(members["mmlu"]) == len(tasks) == 57
    assert sum(len(task.eval_docs) for task in tasks.values()) == 14_042
    task = tasks["mmlu_international_law"]
    for doc, row in zip(
        task.eval_docs, rows(shared_corpora / "mmlu_test.parquet", subject="international_law"), strict=True
    ):
        assert task.fewshot_context(doc, num_fewshot=0) == (
            "The following are multiple choice questions (with answers) about international law.\n\n"
            f"{row['question'].strip()}\nA. {row['A']}\nB. {row['B']}\nC. {row['C']}\nD. {row['D']}\nAnswer:"
        )
        assert "ABCD"[task.doc_to_target(doc)] == row["answer"]


def test_mmlu_takes_examples_from_dev(shared_corpora: Path) -> None:
    tasks, _ = load_tasks(["mmlu_law"], shared_corpora)
    task = tasks["mmlu_international_law"]
    prompt = task.fewshot_context(task.eval_docs[0], num_fewshot=2)
    first, second, *_ = rows(shared_corpora / "mmlu_dev.parquet", subject="international_law")
    for row in (first, second):
        assert f"{row['question'].strip()}\nA. {row['A']}" in prompt
        assert f"D. {row['D']}\nAnswer: {row['answer']}\n\n" in prompt


def test_bbh_asks_as_its_authors_do(shared_corpora: Path) -> None:
    """The harness's examples, put together with our documents, are the prompts that BBH itself publishes."""
    tasks, _ = load_tasks(["bbh", "bbh_direct"], shared_corpora)
    prompts = rows(shared_corpora / "bbh_prompts.parquet")
    assert len(prompts) == 27
    assert len(tasks) == 54
    for prompt in prompts:
        for name, column, end in (
            ("bbh_cot_fewshot_", "cot_prompt", "A: Let's think step by step.\n"),
            ("bbh_fewshot_", "direct_prompt", "A:"),
        ):
            task = tasks[name + prompt["task"]]
            assert task.get_config("num_fewshot") == 3
            doc = task.eval_docs[-1]
            expected = f"{prompt[column]}\n\nQ: {doc['input']}\n{end}"
            if prompt["task"] == "sports_understanding":  # a space in the authors' file, a line break in the harness
                expected = expected.replace("step by step. ", "step by step.\n")
            assert task.fewshot_context(doc, num_fewshot=3) == expected
    assert sum(len(tasks["bbh_fewshot_" + prompt["task"]].eval_docs) for prompt in prompts) == 6511


def test_gsm8k_shows_eight_worked_examples(shared_corpora: Path) -> None:
    tasks, _ = load_tasks(["gsm8k"], shared_corpora)
    task = tasks["gsm8k_cot"]
    row = rows(shared_corpora / "gsm8k_test.parquet")[0]
    examples, question = task.fewshot_context(task.eval_docs[0], num_fewshot=8).rsplit("\n\n", 1)
    assert question == f"Q: {row['instruction']}\nA:"
    assert examples.count("Q: ") == examples.count("The answer is") == 8
    assert task.get_config("num_fewshot") == 8
    assert task.doc_to_target(task.eval_docs[0]) == "18" == row["output"].rpartition("#### ")[2]
