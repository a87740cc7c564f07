import dataclasses
import html.parser
import itertools
import json
import re
from pathlib import Path

import polars as pl
import pytest

from analysis.adapters.breakdown import ComponentAdapter, break_down
from analysis.adapters.routing import analyse_routing
from analysis.report import MoreTable, NextStep, ReportInputs, compare_reports, write_comparison, write_report
from analysis.report.__main__ import main
from analysis.report.budget import LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS, LEAST_STEPS, Spent, spent
from analysis.report.sections import numbers_of, sections
from analysis.report.summary import plain, summarise, summary_markdown
from analysis.report.verdict import matched_difference, verdict
from tests.analysis.synthetic_run import hydralora_state, lora_state, report_inputs

EVIL = '</script><script>alert("x")</script> <img src=x onerror=alert(1)> & <b>bold</b>\u2028'
TEXTS = [EVIL if i % 10 == 0 else f"How many apples are {i} and {i + 1}?" for i in range(60)]
SOURCES = [("gsm8k", "<i>dolly</i>", "medquad")[i % 3] for i in range(60)]
EMPTY = ReportInputs(title="nothing", command="make run")


class Elements(html.parser.HTMLParser):
    """Start tags with their attributes, and the text of script elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return report_inputs(TEXTS, SOURCES)


@pytest.fixture(scope="module")
def folder(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(inputs, folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    parsed = Elements()
    parsed.feed(page)
    return parsed


def test_all_files_are_written_and_no_half_ones(inputs: ReportInputs, folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "report.html", "summary.json", "summary.md"]
    assert len(list((folder / "figures").glob("*.png"))) == 17
    assert not list(folder.rglob(".*"))


def test_the_same_inputs_give_the_same_bytes(inputs: ReportInputs, folder: Path, tmp_path: Path):
    again = write_report(inputs, tmp_path)
    assert again.html.read_bytes() == (folder / "report.html").read_bytes()
    assert again.figures["elbow"].read_bytes() == (folder / "figures" / "elbow.png").read_bytes()


def test_text_of_documents_cannot_become_markup(elements: Elements, page: str):
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("script") == 2  # the map's data and the one script
    assert not {"img", "b", "i", "iframe", "object"} & set(tags)
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert "&lt;/script&gt;&lt;script&gt;alert" in page


def test_the_map_has_the_text_as_it_was(elements: Elements):
    data = json.loads(elements.scripts[0])
    assert data["excerpt"][0] == " ".join(EVIL.split())
    assert data["sources"] == ["<i>dolly</i>", "gsm8k", "medquad"]
    assert len(data["x"]) == len(data["y"]) == len(TEXTS)
    assert 0 <= min(data["x"]) <= max(data["x"]) <= 65535


def test_nothing_is_loaded_and_only_our_script_may_run(elements: Elements, page: str):
    policy = next(a["content"] for tag, a in elements.tags if tag == "meta" and "content" in a and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    targets = [a.get(name) or "" for _, a in elements.tags for name in ("src", "href", "xlink:href", "action")]
    assert not [target for target in targets if target and not target.startswith(("#", "data:"))]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_figures_have_alternative_text_and_every_id_is_unique(elements: Elements):
    figures = [a for tag, a in elements.tags if tag == "div" and a.get("role") == "img"]
    assert len(figures) == 16  # the map of documents is interactive instead
    assert all(len(a["aria-label"] or "") > 5 for a in figures)
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_headings_do_not_skip_levels(elements: Elements):
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_an_empty_run_still_has_a_report(tmp_path: Path):
    files = write_report(EMPTY, tmp_path)
    page = files.html.read_text("utf-8")
    assert page.count('class="missing"') == 10
    assert files.figures == {}
    assert {s.level for s in verdict(EMPTY)} == {"unknown", "neutral"}


@pytest.mark.parametrize(
    ("parts", "n_experts", "figures"),
    [(0, 1, set()), (0, 3, {"similarity_by_relation"}), (2, 1, {"similarity_by_relation", "similarity_by_layer"})],
)
def test_a_breakdown_with_little_in_it_is_drawn(parts: int, n_experts: int, figures: set[str], tmp_path: Path):
    found = [ComponentAdapter(f"{p}", f"{p}", 0, lora_state(0, p, n_layers=2)) for p in range(parts)]
    breakdown = break_down(found, hydralora_state(n_experts, n_layers=2), methods=())
    files = write_report(dataclasses.replace(EMPTY, breakdown=breakdown), tmp_path)
    assert set(files.figures) == figures


def test_routing_of_one_expert_is_drawn(tmp_path: Path):
    gates = pl.DataFrame({"layer": [0], "module": ["q"], "expert": [0], "group_kind": ["all"], "group": ["all"],
                          "gate": [1.0], "n_tokens": [9]})  # fmt: skip
    routing = analyse_routing(gates, pl.DataFrame({"layer": [0], "module": ["q"], "entropy": [0.0]}))
    assert set(write_report(dataclasses.replace(EMPTY, routing=routing), tmp_path).figures) == {"entropy_and_usage"}


def with_seeds(inputs: ReportInputs, n_seeds: int = LEAST_SEEDS) -> ReportInputs:
    """The same run with so many seeds: enough for a verdict."""
    assert inputs.evaluation is not None
    seeds = [inputs.evaluation.with_columns(seed=pl.lit(seed, pl.Int64)) for seed in range(n_seeds)]
    return dataclasses.replace(inputs, evaluation=pl.concat(seeds))


def test_verdict_of_a_run_that_spent_enough(inputs: ReportInputs):
    assert [(s.answer, s.level) for s in verdict(with_seeds(inputs))] == [
        ("4 clusters at the elbow, and as many experts", "good"),
        ("Yes, by 1.46%", "good"),
        ("Yes", "good"),
        ("Looks so, but A started equal", "neutral"),
        ("With live routing, or as one LoRA for each domain", "neutral"),
    ]


def test_below_the_budget_nothing_is_green_but_the_clusters(inputs: ReportInputs):
    statements = verdict(inputs)
    assert [s.level for s in statements] == ["good", "unknown", "unknown", "unknown", "neutral"]
    assert {s.answer for s in statements[1:4]} == {"Not enough to tell"}
    assert "This run has 1 of at least 3 seeds. It measured: Held-out loss -0.0210 nats" in statements[1].detail


@pytest.mark.parametrize(
    ("steps", "documents", "seeds", "short"),
    [
        (LEAST_STEPS, LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS, ()),
        (LEAST_STEPS - 1, LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS, ("199 of at least 200 steps",)),
        (LEAST_STEPS, LEAST_HELD_OUT_DOCUMENTS - 1, LEAST_SEEDS, ("199 of at least 200 held-out documents",)),
        (LEAST_STEPS, LEAST_HELD_OUT_DOCUMENTS, LEAST_SEEDS - 1, ("2 of at least 3 seeds",)),
        (None, None, LEAST_SEEDS, ("an unknown number of at least 200 steps",
                                   "an unknown number of at least 200 held-out documents")),
    ],
)  # fmt: skip
def test_what_is_too_little_for_a_verdict(
    steps: int | None, documents: int | None, seeds: int, short: tuple[str, ...]
) -> None:
    assert Spent(steps, 1000, seeds, 1.0, documents).shortfalls == short


def test_what_a_run_spent_is_read_from_its_tables(inputs: ReportInputs):
    assert spent(inputs) == Spent(1000, 2_048_000, 1, 783.0, 200)
    assert spent(EMPTY) == Spent(None, None, None, None, None)


def test_the_head_of_the_page_says_what_was_run(inputs: ReportInputs, tmp_path: Path):
    step = NextStep("Serve it", "hydralora serve 'a folder' --backend http://localhost:8000", "Now.")
    named = dataclasses.replace(
        inputs, base_model="a <model>", n_training_documents=1234, next_steps=[step], configuration="ops: {a: <b>}"
    )
    page = write_report(named, tmp_path).html.read_text("utf-8")
    head = page[: page.index('<section id="corpus"')]
    for words in ("a &lt;model&gt;", "1,234 documents", "<dd>1,000</dd>", "2,048,000", "13 min", "Serve it"):
        assert words in head
    assert "hydralora serve &#39;a folder&#39; --backend http://localhost:8000" in head
    assert "ops: {a: &lt;b&gt;}" in page
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["spent"]["base_model"] == "a <model>"
    assert summary["next_steps"][0]["command"].startswith("hydralora serve")


CROSS = [  # document, group, expert, loss, tokens
    *(("1", "law", "law", 10.0, 10), ("1", "law", "code", 12.0, 10)),
    *(("2", "law", "law", 5.0, 10), ("2", "law", "code", 6.0, 10)),
    *(("3", "code", "law", 30.0, 20), ("3", "code", "code", 20.0, 20)),
]


def grouped_with(inputs: ReportInputs, rows: list[tuple[str, str, str, float, int]]) -> ReportInputs:
    columns = ("document_id", "group", "expert", "loss", "n_tokens")
    grouping = {"num_experts": 2, "group_kind": "source", "groups": ["law", "code"], "reason": "Told."}
    losses = pl.DataFrame(rows, schema=columns, orient="row") if rows else None
    return with_seeds(dataclasses.replace(inputs, grouping=grouping, cross_losses=losses))


def test_given_gates_are_asked_whether_the_own_expert_is_best(inputs: ReportInputs):
    question = "Is each expert better on its own group than the other experts are?"
    answers = []
    worse = [(d, g, e, loss if g == e else loss / 4, n) for d, g, e, loss, n in CROSS]
    for rows in (CROSS, [], worse):
        (statement,) = (s for s in verdict(grouped_with(inputs, rows)) if s.question == question)
        answers.append((statement.answer, statement.level))
    assert answers == [("No difference shown", "neutral"), ("Not measured", "unknown"), ("No", "bad")]
    more = CROSS + [(f"{d}-{i}", g, e, loss, n) for i in range(9) for d, g, e, loss, n in CROSS]
    (statement,) = (s for s in verdict(grouped_with(inputs, more)) if s.question == question)
    assert (statement.answer, statement.level) == ("Yes", "good")
    assert "in 2 of 2 groups" in statement.detail


def test_given_gates_are_told_in_a_sentence(inputs: ReportInputs, tmp_path: Path):
    files = write_report(grouped_with(inputs, CROSS), tmp_path)
    assert not {"gates_by_cluster", "gate_association", "entropy_and_usage"} & set(files.figures)
    assert "cross_losses" in files.figures
    page = files.html.read_text("utf-8")
    assert "a whole document goes to the expert of its source" in page
    assert "token by token" not in page


def test_every_figure_has_a_form_for_a_phone(page: str):
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') == 16


def test_a_method_has_one_colour_and_the_base_model_is_grey(inputs: ReportInputs):
    assert inputs.evaluation is not None
    base = inputs.evaluation.with_columns(method=pl.lit("base"))
    numbers = numbers_of(dataclasses.replace(inputs, evaluation=pl.concat([base, inputs.evaluation])))
    assert numbers == {"hydralora": 0, "lora_matched": 1, "base": 6, "lora_r8": 2}


def test_a_cluster_that_the_sample_misses_keeps_its_number(inputs: ReportInputs, tmp_path: Path):
    assert inputs.cluster_map is not None
    some = inputs.cluster_map.filter(pl.col("cluster") != 0)
    elements = Elements()
    elements.feed(write_report(dataclasses.replace(EMPTY, cluster_map=some), tmp_path).html.read_text("utf-8"))
    data = json.loads(elements.scripts[0])
    assert [data["clusters"][i] for i in data["cluster"]] == [str(c) for c in some["cluster"]]
    assert data["clusters"] == [str(i) for i in range(len(data["clusters"]))]


def test_heads_of_tables_are_words_and_rules_too(page: str):
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)
    assert not [head for head in heads if head.startswith("n ") or "_" in head or head in ("kl", "found", "cka")]
    assert "l_method" not in page


def test_one_expert_is_called_a_lora():
    choice = {"num_clusters": 1, "reason": "No clear structure.", "structure": False}
    statements = verdict(dataclasses.replace(EMPTY, choice=choice))
    assert statements[0].answer == "One cluster at the elbow: one LoRA is enough"
    assert statements[-1].answer == "As a plain LoRA"


def test_experts_given_by_the_prompt_are_called_by_their_groups(inputs: ReportInputs):
    grouping = {
        "num_experts": 3, "group_kind": "source", "groups": ["law", "code", "<b>maths</b>"],
        "reason": "Prompts tell the source.", "held_out_accuracy": 0.992,
    }  # fmt: skip
    grouped = dataclasses.replace(inputs, grouping=grouping)
    statement = verdict(grouped)[0]
    assert (statement.answer, statement.level) == ("3 experts, one for each source", "neutral")
    assert "On the test documents: 99.2%." in statement.detail
    assert "Clusters at the elbow of K-means: 4." in statement.detail
    numbers = summarise(grouped)["numbers"]
    assert (numbers["experts trained"], numbers["clusters at the elbow"]) == (3, 4)
    tables = {t.caption: t for t in sections(grouped)[1].tables}
    assert tables["Experts: one for each source"].rows[0] == (0, "law")


def test_further_tables_are_sections_and_times_need_no_energy(inputs: ReportInputs, tmp_path: Path):
    assert inputs.energy is not None
    more = (
        MoreTable("serving", "One LoRA for each domain", "What it costs.", pl.DataFrame({"domain": ["<i>law</i>"]})),
    )
    energy = inputs.energy.with_columns(energy_kwh=pl.lit(None, pl.Float64))
    page = write_report(dataclasses.replace(EMPTY, more=more, energy=energy), tmp_path).html.read_text("utf-8")
    assert '<section id="serving"' in page
    assert "&lt;i&gt;law&lt;/i&gt;" in page
    assert "Energy was not measured" in page
    assert "time, s" in page
    assert "energy, Wh" not in page


def evaluation(rows: list[tuple[str, int, float]]) -> pl.DataFrame:
    data = [(method, seed, "all", "all", loss, loss - 0.03, loss + 0.04) for method, seed, loss in rows]
    columns = ["method", "seed", "group_kind", "group", "loss", "loss_low", "loss_high"]
    return pl.DataFrame(data, schema=columns, orient="row")


def test_difference_over_seeds_is_a_paired_t_interval():
    rows = [("hydralora", s, 1.0 + d) for s, d in enumerate((0.01, 0.02, 0.03))] + [("lora", s, 1.0) for s in range(3)]
    difference = matched_difference(dataclasses.replace(EMPTY, evaluation=evaluation(rows)))
    assert difference is not None
    assert difference.value == pytest.approx(0.02)
    assert (difference.high - difference.low) / 2 == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert difference.how == "paired over 3 seeds"


def test_one_seed_is_said_to_be_unsure():
    inputs = dataclasses.replace(EMPTY, evaluation=evaluation([("hydralora", 0, 1.40), ("lora", 0, 1.42)]))
    statement = verdict(inputs)[1]
    assert statement.answer == "Not enough to tell"
    assert "one seed, unpaired" in statement.detail


def test_worse_is_called_worse(inputs: ReportInputs):
    assert inputs.paired is not None
    worse = inputs.paired.with_columns(difference=0.03, low=0.01, high=0.05)
    assert verdict(with_seeds(dataclasses.replace(inputs, paired=worse)))[1].answer == "No, worse by 2.08%"


def test_a_source_of_which_half_is_gone_is_on_the_first_screen(inputs: ReportInputs):
    assert not any("Is the corpus" in statement.question for statement in verdict(inputs))
    card = {
        "n_kept": 3,
        "sources": [{"source": "web", "n_read": 9, "n_kept": 3}, {"source": "books", "n_read": 9, "n_kept": 5}],
        "dropped": [
            {"source": "web", "reason": "invalid_utf8", "n": 6},
            {"source": "books", "reason": "near_duplicate", "n": 1},
            {"source": "books", "reason": "over_source_limit", "n": 3},
        ],
    }
    line = next(
        s for s in verdict(dataclasses.replace(inputs, data_card=card)) if s.question == "Is the corpus what was read?"
    )
    assert line.level == "bad"
    assert line.answer == "No, half of 1 source or more is gone"
    assert line.detail == "Source 'web' has lost 6 of 9 records: 6 invalid_utf8."


def test_a_table_without_its_columns_is_refused():
    with pytest.raises(ValueError, match="sweep: expected columns n_clusters, inertia; got no inertia"):
        dataclasses.replace(EMPTY, sweep=pl.DataFrame({"n_clusters": [1]}))


def test_a_large_map_is_sampled_and_says_so(tmp_path: Path):
    n = 15_500
    points = pl.DataFrame(
        {"document_id": [f"{i:016x}" for i in range(n)], "x": range(n), "y": range(n),
         "cluster": [i % 3 for i in range(n)], "source": ["s"] * n, "excerpt": ["word " * 60] * n}
    )  # fmt: skip
    page = write_report(dataclasses.replace(EMPTY, cluster_map=points), tmp_path).html.read_text("utf-8")
    assert "a random sample of 15,000 of 15,500 documents" in page
    assert len(page) < 8_000_000


def test_markdown_escapes_and_stays_in_its_cells(inputs: ReportInputs):
    text = summary_markdown(summarise(dataclasses.replace(inputs, title="a | b <script>")))
    assert "# a \\| b &lt;script>" in text
    assert {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")} == {3, 4}
    assert inputs.command in text


def test_two_runs_are_compared(inputs: ReportInputs, folder: Path, tmp_path: Path):
    summary = summarise(inputs)
    summary["numbers"]["experts trained"] = 5
    summary["verdict"][0]["answer"] = "N = 5"
    (tmp_path / "summary.json").write_text(json.dumps(summary), "utf-8")
    text = compare_reports(folder, tmp_path)
    assert "| experts trained | 4 | 5 | +1 |" in text
    assert "| How many clusters, and experts? | 4 clusters at the elbow, and as many experts | N = 5 |  |" in text
    assert "loss of hydralora" not in text
    assert "No provenance differs." in text
    with pytest.raises(FileNotFoundError, match="write_report makes both"):
        compare_reports(folder, tmp_path / "absent")


def other_run(folder: Path, inputs: ReportInputs) -> Path:
    """A second run with another N, higher losses, other documents and an alarm."""
    summary = summarise(inputs)
    summary |= {"title": EVIL, "alarms": [{"level": "warning", "text": "layer 3 collapsed"}]}
    summary["choice"]["num_clusters"] = 5
    summary["verdict"][0]["answer"] = "N = 5"
    summary["provenance"]["artifact corpus_documents"] = "0123"
    for row in summary["losses"]:
        for name in ("loss", "loss_low", "loss_high"):
            row[name] += 0.1
    summary["parameters"][0]["n_parameters"] += 1000
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    return folder


def test_a_page_of_two_runs_shows_what_differs(inputs: ReportInputs, folder: Path, tmp_path: Path):
    page = write_comparison(folder, other_run(tmp_path, inputs), tmp_path / "page.html").read_text("utf-8")
    words = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    words = " ".join(words.split())
    assert "first 4 clusters at the elbow" in words
    assert "second N = 5" in words
    assert "their losses are not of the same texts" in words
    assert "all hydralora 0 1.42 1.39 to 1.45 1.52 1.49 to 1.55 0.1 apart" in words
    assert "hydralora A 460,800 461,800 +1,000" in words
    assert "lora_matched A 921,600 921,600" in words
    assert "new layer 3 collapsed" in words
    assert "artifact corpus_documents – 0123" in words
    assert "3 entries are equal." in words
    assert page.count("<svg") == 2 * 2  # for a desk and for a phone
    assert EVIL not in page
    assert "&lt;script&gt;alert" in page


def test_two_equal_runs_say_so(folder: Path, tmp_path: Path):
    page = write_comparison(folder, folder, tmp_path / "page.html").read_text("utf-8")
    assert "A made-up run, twice" in page
    assert 'class="statement bad"' not in page
    assert "Numbers that differ" not in page
    assert page.count("data:image/png;base64") == 2 * 4  # figures of both, where the folders have them


def test_a_summary_of_an_older_report_is_compared_too(folder: Path, tmp_path: Path):
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    for name in ("choice", "losses", "parameters"):
        del summary[name]
    (tmp_path / "summary.json").write_text(json.dumps(summary), "utf-8")
    page = write_comparison(tmp_path, folder, tmp_path / "page.html").read_text("utf-8")
    assert "Losses with their intervals are not in both summaries." in page


def test_the_command_compares(inputs: ReportInputs, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = other_run(tmp_path, inputs)
    main(["compare", str(folder), str(other), "-o", str(tmp_path / "page.html")])
    assert capsys.readouterr().out.strip() == str((tmp_path / "page.html").resolve())
    main(["compare", str(folder), str(other)])
    assert (
        "| How many clusters, and experts? | 4 clusters at the elbow, and as many experts | N = 5 |  |"
        in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        main(["compare", str(folder), str(tmp_path / "absent")])
    assert "expected a report's folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (54321.6, "54,322"),
    ],
)
def test_numbers_are_readable(value: object, text: str):
    assert plain(value) == text
