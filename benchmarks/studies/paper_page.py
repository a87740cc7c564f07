"""Writes the tables of docs/results/paper.md from the results of `paper_summary.py`.

    python benchmarks/studies/paper_page.py benchmarks/results/paper_study.json docs/results/paper.md

A table stands between `<!-- name -->` and `<!-- end of name -->`; all other text of the page stays as it is.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

Row = Mapping[str, Any]
Results = Mapping[str, Any]

SEEDS = 5  # other numbers of seeds stand beside a value
NAMES = {
    "base": "base, untrained",
    "full": "full fine-tuning",
    "prompt_tuning": "prompt tuning",
    "p_tuning": "P-tuning",
    "ia3": "(IA)3",
    "prefix_tuning": "prefix tuning",
    "adalora": "AdaLoRA",
    "lora_r8": "LoRA r=8",
    "lora_r16": "LoRA r=16",
    "lora_r32": "LoRA r=32",
    "lora_matched": "LoRA of HydraLoRA's size",
    "lora_split_16x2": "LoRA-Split 16x2",
    "lora_split_8x4": "LoRA-Split 8x4",
    "lora_split_4x8": "LoRA-Split 4x8",
    "lora_moe": "LoRA MoE",
    "lorahub": "LoraHub",
    "hydralora": "HydraLoRA r=8",
    "without_moe": "w/o MoE (LoRA r=8)",
    "without_gate": "w/o gate",
    "without_hydra": "w/o hydra",
}
TOKEN, TASKS = "", "macro_"
METRICS = {TOKEN: "by token", TASKS: "over tasks"}
SINGLE = ("general", "medical", "law", "code", "math")
WORDS = {"better": "better", "worse": "worse", "": "no difference shown"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def difference(row: Row, metric: str) -> str:
    """With its interval, bold where the interval excludes zero; the loss of the reference itself."""
    value = row[f"{metric}difference"]
    if value is None:
        return f"{row[f'{metric}loss']:.4f}"
    low, high = (row[f"{metric}difference_{end}"] for end in ("low", "high"))
    text = f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{text}**" if outcome(row, metric) else text


def outcome(row: Row, metric: str) -> str:
    """ "better" or "worse" than the reference if the interval excludes zero, else nothing."""
    low, high = (row[f"{metric}difference_{end}"] for end in ("low", "high"))
    return "better" if high < 0 else "worse" if low > 0 else ""


def seeds(row: Row) -> str:
    return "" if row["n_seeds"] == SEEDS or row["method"] == "base" else f", {row['n_seeds']} seeds"


def percent(row: Row) -> str:
    ours = "" if row["percent"] is None else f"{row['percent']:.3f}"
    printed = row.get("percent_printed")
    return ours if printed is None else f"{ours} ({printed:g})"


def domains_table(results: Results, name: str, metric: str) -> str:
    """Methods by domains: differences, and in brackets what the paper prints (beside the losses of tokens)."""
    cells = {(row["method"], row["domain"]): row for row in results[name]}
    methods, domains = (list(dict.fromkeys(row[key] for row in results[name])) for key in ("method", "domain"))
    rows = []
    for method in methods:
        of = [cells.get((method, domain)) for domain in domains]
        first = next(row for row in of if row is not None)
        rows.append([NAMES[method], percent(first), *(_domain_cell(row, metric) for row in of)])
    return table(["", "%Param ours (paper)", *domains], rows)


def _domain_cell(row: Row | None, metric: str) -> str:
    if row is None:
        return "not run"
    printed = f" ({row['printed']:g})" if metric == TOKEN and row["printed"] is not None else ""
    return f"{difference(row, metric)}{seeds(row)}{printed}"


def both_metrics(results: Results, name: str) -> str:
    """A table of one domain: by token and over tasks beside each other."""
    rows = [
        [
            NAMES[row["method"]],
            percent(row),
            f"{difference(row, TOKEN)}{seeds(row)}",
            difference(row, TASKS),
            "" if row["printed"] is None else f"{row['printed']:g}",
        ]
        for row in results[name]
    ]
    return table(["", "%Param ours (paper)", "by token", "over tasks", "the paper's score"], rows)


def heterogeneity(results: Results) -> str:
    """Differences by the heterogeneity of the corpus, and whether they follow its order."""
    cells = {(row["domain"], row["method"]): row for row in results["figure_2"]}
    domains = sorted({(row["index"], row["domain"]) for row in results["figure_2"]})
    shown = [(method, metric) for method in ("full", "hydralora") for metric in METRICS]
    head = ["domain", "Rao's index", *(f"{NAMES[method]}, {METRICS[metric]}" for method, metric in shown)]
    rows = [
        [name, f"{index:.2f}", *(difference(cells[name, m], metric) for m, metric in shown)] for index, name in domains
    ]
    trends = []
    for method, metric in shown:
        differences = [cells[name, method][f"{metric}difference"] for _, name in domains]
        found = kendalltau([index for index, _ in domains], differences)
        trends.append(f"{found.statistic:+.2f} (p = {found.pvalue:.2f})")
    return table(head, [*rows, ["Kendall's tau with the index", "", *trends]])


def numbers_of_experts(results: Results) -> str:
    rows = [
        [str(row["num_experts"]), f"{difference(row, TOKEN)}{_seeds_of_n(row)}", difference(row, TASKS)]
        for row in results["figure_5"]
    ]
    return table(["N", "by token", "over tasks"], rows)


def _seeds_of_n(row: Row) -> str:
    return "" if row["n_seeds"] == SEEDS else f", {row['n_seeds']} seeds"


def verdicts(results: Results) -> str:
    """For each pair of methods that the paper ranks: where ours differ, by both metrics."""
    pairs: dict[tuple[str, str, str], list[Row]] = {}
    for row in results["claims"]:
        pairs.setdefault((row["table"], row["better"], row["worse"]), []).append(row)
    rows = [
        [
            name.replace("_", " ").title(),
            f"{NAMES[better]} is better than {NAMES[worse]}",
            *(_outcomes(of, metric) for metric in METRICS),
        ]
        for (name, better, worse), of in pairs.items()
    ]
    return table(["", "the paper", "ours, by token", "ours, over tasks"], rows)


def _outcomes(rows: Sequence[Row], metric: str) -> str:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(outcome(row, metric), []).append(row["domain"])
    return "; ".join(f"{WORDS[word]}: {', '.join(found[word])}" for word in WORDS if word in found)


def other_pairs(results: Results) -> str:
    """HydraLoRA minus the methods of Table 2 that matter most beside its reference."""
    cells = {
        (row["better"], row["worse"], row["domain"]): row for row in results["claims"] if row["table"] == "table_2"
    }
    rows = []
    for worse in ("lora_r8", "lora_r32"):
        for metric, name in METRICS.items():
            of = [cells.get(("hydralora", worse, domain)) for domain in SINGLE]
            shown = ["not run" if row is None else difference(row, metric) for row in of]
            rows.append([f"minus {NAMES[worse]}, {name}", *shown])
    return table(["HydraLoRA", *SINGLE], rows)


def rates(results: Results) -> str:
    """The best rate of each method, N and domain, and how many were tried."""
    cells: dict[str, dict[str, str]] = {}
    tried = Counter((row["method"], row["num_experts"], row["domain"]) for row in results["rates"])
    for row in results["rates"]:
        if row["chosen"]:
            n = row["num_experts"]
            name = f"{NAMES[row['method']]}, N={n}" if row["method"] == "hydralora" else NAMES[row["method"]]
            edge = "" if row["bracketed"] else ", not bracketed"
            of = tried[row["method"], n, row["domain"]]
            cells.setdefault(name, {})[row["domain"]] = f"{row['learning_rate']:g} of {of}{edge}"
    domains = (*SINGLE, "mixed")
    return table(["", *domains], [[name, *(of.get(d, "") for d in domains)] for name, of in cells.items()])


def runs(results: Results) -> str:
    of = results["runs"]
    seconds = sum(run["seconds"] for run in of)
    steps = Counter(run["steps"] for run in of if "steps" in run)
    documents = "; ".join(
        f"{name} {', '.join(f'{n:,} {part}' for part, n in parts.items())}"
        for name, parts in results["documents"].items()
    )
    rows = [
        ["runs", f"{len(of)}, of {seconds / len(of):.1f} s each, several beside each other"],
        ["steps", ", ".join(f"{n} in {count} runs" for n, count in steps.items())],
        ["machine", "; ".join(results["hardware"])],
        ["intervals", results["intervals"]],
        ["documents", documents.replace("_", "-")],
    ]
    return table(["setting", "value"], rows)


BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "verdicts": verdicts,
    "runs": runs,
    "table 1": lambda results: both_metrics(results, "table_1"),
    "table 2 by token": lambda results: domains_table(results, "table_2", TOKEN),
    "table 2 over tasks": lambda results: domains_table(results, "table_2", TASKS),
    "other pairs of table 2": other_pairs,
    "table 3": lambda results: both_metrics(results, "table_3"),
    "table 5 by token": lambda results: domains_table(results, "table_5", TOKEN),
    "table 5 over tasks": lambda results: domains_table(results, "table_5", TASKS),
    "figure 2": heterogeneity,
    "figure 5": numbers_of_experts,
    "rates": rates,
}


def filled(page: str, results: Results, blocks: Mapping[str, Callable[[Results], str]] = BLOCKS) -> str:
    """The page with each of its tables made from the results.

    Raises:
        ValueError: the page names a table that is not in `blocks`, or does not end one.
    """
    begun = re.findall(r"<!-- (?!end of )(.+?) -->", page)
    for name in begun:
        if name not in blocks:
            raise ValueError(f"Expected tables among {', '.join(blocks)}, got {name!r}")
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"Expected {end!r} after {begin!r}, got none")
        page = f"{before}{begin}\n\n{blocks[name](results)}\n\n{end}{after}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    arguments.page.write_text(filled(arguments.page.read_text(), json.loads(arguments.results.read_text())))


if __name__ == "__main__":
    main()
