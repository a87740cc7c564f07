"""`hydralora`: from files to N, a trained adapter, and a served model."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.configurations import Request
from pipelines.serving.command import serve

app = typer.Typer(
    name="hydralora",
    help="How many LoRA experts do your records deserve? Analyse them, train the experts, serve them.",
    epilog="Begin with: hydralora analyze my.jsonl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Files = Annotated[
    list[str], typer.Argument(help="JSONL, JSON, CSV, TSV or Parquet files, globs or folders. A file is a source.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="What your files call a role: prompt=question. Repeat it. Known shapes need none.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines; progress goes to stderr.")]
Store = Annotated[Path, typer.Option(help="Folder for everything that the run makes.")]
Config = Annotated[Path, typer.Argument(help="Run configuration, for instance of `hydralora init`.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="Budget of each adapter in tokens. Default: by the machine.")]
Base = Annotated[str, typer.Option(help="Base model: `embedded`, a folder, or a hub id with --revision.")]
Revision = Annotated[str | None, typer.Option(help="Commit of a base model on the hub.")]
Experts = Annotated[str, typer.Option(help="auto (read off the corpus), sources, tasks, clusters, or a number.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("hydralora"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before a command."""


@app.command()
def analyze(
    files: Files,
    column: Columns = None,
    out: Annotated[Path, typer.Option(help="Folder of the report, analysis.json and the corpus model.")] = Path(
        "analysis"
    ),
    max_clusters: Annotated[int, typer.Option(min=3, max=200, help="Largest number of clusters tried.")] = 20,
    against: Annotated[
        list[str] | None, typer.Option(help="Files, globs or folders of another corpus to compare with; repeat it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """How many experts? N, why, how sure, and what it means for training. Trains nothing; takes seconds."""
    from pipelines.cli.analyzing import analyze_files

    analyze_files(files, column or [], out, max_clusters, seed, as_json, against or [])


@app.command()
def init(
    files: Files,
    column: Columns = None,
    out: Annotated[Path, typer.Option(help="The configuration to write.")] = Path("hydralora.yaml"),
    base_model: Base = "embedded",
    revision: Revision = None,
    tokens: Tokens = None,
    experts: Experts = "auto",
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Write a short, commented configuration for files. `hydralora run` takes it."""
    from pipelines.cli.starting import write_configuration

    write_configuration(Request(files, column or [], experts, out, base_model, revision, tokens), force)


@app.command()
def run(
    config: Config,
    job: Annotated[str, typer.Option(help="hydralora: all of it; corpus: N alone; or another job.")] = "hydralora",
    partition: Annotated[str | None, typer.Option(help="Of the job one_run: method, seed and learning rate.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run everything: N, training, baselines, exports, report. A killed run goes on where it was."""
    from pipelines.cli.running import run_file

    run_file(config, job, partition, as_json)


@app.command()
def train(
    files: Files,
    column: Columns = None,
    method: Annotated[str | None, typer.Option(help="A row of hydralora.methods. Default: hydralora_split.")] = None,
    experts: Experts = "auto",
    out: Store = Path("outputs/train"),
    base_model: Base = "embedded",
    revision: Revision = None,
    tokens: Tokens = None,
    as_json: AsJson = False,
) -> None:
    """Train one adapter on files, without baselines or a report."""
    from pipelines.cli.running import train_files

    train_files(Request(files, column or [], experts, out, base_model, revision, tokens), method, as_json)


@app.command()
def compare(
    files: Files,
    column: Columns = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A row of hydralora.methods; repeat it. Default: hydralora_split, hydralora, lora_matched."),
    ] = None,
    experts: Experts = "auto",
    out: Store = Path("outputs/compare"),
    base_model: Base = "embedded",
    revision: Revision = None,
    tokens: Tokens = None,
    as_json: AsJson = False,
) -> None:
    """Train several methods on the same documents and budget, and compare their held-out losses."""
    from pipelines.cli.running import compare_files

    compare_files(Request(files, column or [], experts, out, base_model, revision, tokens), method or [], as_json)


@app.command()
def export(
    adapter: Annotated[Path, typer.Argument(help="Folder with adapter_config.json of a HydraLoRA adapter.")],
    out: Annotated[Path, typer.Option(help="Folder for the plain LoRAs.")] = Path("exports"),
    as_json: AsJson = False,
) -> None:
    """Write a plain LoRA for each expert of an adapter, and what `hydralora serve` needs beside them."""
    from pipelines.cli.exporting import export_adapter

    export_adapter(adapter, out, as_json)


@app.command()
def report(
    path: Annotated[
        Path,
        typer.Argument(help="Configuration that was run, a run's folder STORE/runs/ID, or a folder with a report."),
    ],
    against: Annotated[Path | None, typer.Option(help="Another run, named alike: writes a page of both.")] = None,
    out: Annotated[Path, typer.Option(help="The page of both.")] = Path("comparison.html"),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Say where the report is, or compare it with another one."""
    from pipelines.cli.reporting import print_report

    print_report(path, against, out, show)


@app.command()
def assign(
    corpus: Annotated[Path, typer.Argument(help="Folder of `analyze`, or a folder `corpus_model` of a run.")],
    files: Files,
    column: Columns = None,
    labels: Annotated[Path | None, typer.Option(help="Parquet file to write: a cluster for each document.")] = None,
    as_json: AsJson = False,
) -> None:
    """Assign new documents to the clusters of a corpus, and say whether N still holds."""
    from pipelines.cli.assigning import assign_files

    assign_files(corpus, files, column or [], labels, as_json)


app.command()(serve)
