"""`hydralora analyze`: shows an `analysis.Analysis`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.output import checked_folder, columns_of, one_error, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.answer.analysis import Analysis
    from analysis.answer.analyze import Stage
    from analysis.answer.corpus_comparison import CorpusComparison


def analyze_files(
    files: Sequence[str],
    columns: Sequence[str],
    out: Path,
    max_clusters: int,
    seed: int,
    as_json: bool,
    against: Sequence[str] = (),
) -> None:
    """Analyse files, show the answer and write its folder. `against`: files of another corpus, to compare with."""
    from rich.console import Console

    mapping = columns_of(columns)
    checked_folder(out)
    start = time.perf_counter()
    progress = Console(stderr=True, highlight=False)

    def show_stage(stage: "Stage") -> None:
        left = f"about {stage.seconds_left:.0f} s left" if stage.seconds_left >= 1 else ""
        progress.print(
            f"[bold]{stage.name:<10}[/] {stage.seconds:5.1f} s  {stage.found}  [dim]{left}[/]", soft_wrap=True
        )

    from pipelines.store.files.disk import DiskFullError, clear_disk_errors

    with one_error(ValueError, OSError, DiskFullError), clear_disk_errors(out, "name a folder elsewhere with --out"):
        from analysis.answer.analyze import analyze, is_compiled
        from analysis.answer.named_files import named_sources
        from analysis.corpus.data_card import VanishedSourceError

        if against:
            named_sources(against, mapping)
        if not is_compiled():
            progress.print("The first start compiles kernels, once: about half a minute more.")
        with one_error(VanishedSourceError, code=1):
            found = analyze(files, columns=mapping, max_clusters=max_clusters, random_state=seed, progress=show_stage)
            compared = None
            if against:
                from analysis.answer.corpus_comparison import compare_corpora

                other = analyze(against, columns=mapping, max_clusters=max_clusters, n_samples=0, random_state=seed)
                compared = compare_corpora(other, found)
        report = found.write(out).html.resolve()
    if as_json:
        print_json({**found.to_dict(), "report": str(report), **({"against": compared.to_dict()} if compared else {})})
        return
    console = Console(highlight=False)
    show(found, report, time.perf_counter() - start, console)
    if compared is not None:
        show_comparison(compared, console)


def show(found: "Analysis", report: Path, seconds: float, console: "Console") -> None:
    """The answer, for a person."""
    from rich.markup import escape
    from rich.table import Table

    plain = " (a plain LoRA is enough)" if found.num_experts == 1 else f", one expert for each {found.grouping.kind}"
    console.print(f"\n[bold green]N = {found.num_experts}[/]{plain}")
    for name, text in (("Why", found.why), ("How sure", found.how_sure), ("For training", found.meaning)):
        console.print(f"[bold]{name}.[/] {escape(text)}")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, side in (("group", "left"), ("documents", "right"), ("share", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("words", overflow="fold")
    table.add_column("sources", overflow="fold")
    for row in found.groups.iter_rows(named=True):
        sources = ", ".join(f"{name} {n:,}" for name, n in list(row["sources"].items())[:4])
        words = " ".join(row["top_terms"][:6])
        table.add_row(
            escape(row["group"]), f"{row['n_documents']:,}", f"{row['share']:.0%}", escape(words), escape(sources)
        )
    console.print(table)
    for text in found.warnings:
        console.print(f"[yellow]Note.[/] {escape(text)}", soft_wrap=True)
    console.print(f"\nReport: {escape(str(report))}  [dim]({seconds:.1f} s)[/]", soft_wrap=True)
    console.print(f"Next: {escape(found.command('init'))}", soft_wrap=True)
    if found.num_experts == 1 < found.documents["source"].n_unique():
        console.print("To give each source an expert all the same, and compare: add --experts sources.", soft_wrap=True)


def show_comparison(found: "CorpusComparison", console: "Console") -> None:
    """The clusters of two corpora side by side."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Against the other corpus", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("other", "here", "documents there", "documents here", "overlap"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("words", overflow="fold")
    for row in found.table.iter_rows(named=True):
        numbers = ("gone" if row["second"] is None else row["second"], "new" if row["first"] is None else row["first"])
        sizes = (f"{row[f'n_{side}']:,} ({row[f'share_{side}']:.0%})" for side in ("first", "second"))
        overlap = "" if row["overlap"] is None else f"{row['overlap']:.2f}"
        table.add_row(*map(str, reversed(numbers)), *sizes, overlap, escape(" ".join(row["terms"])))
    console.print(table)
    console.print(
        f"{found.mix_shift:.0%} of the documents here would have to change cluster to give the other's shares."
    )
