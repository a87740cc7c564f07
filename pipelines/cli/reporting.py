"""`hydralora report`: finds a report, and compares it with another."""

import webbrowser
from pathlib import Path

from pipelines.cli.output import checked_file, fail, one_error


def print_report(path: Path, against: Path | None, out: Path, show: bool) -> None:
    """Print the path of a report, or of a page that compares it with another; open it if wanted."""
    if against is not None:
        checked_file(out)
    found = report_of(path)
    if against is not None:
        found = comparison(report_of(against), found, out)
    print(found.resolve())
    if show:
        webbrowser.open(found.resolve().as_uri())


def report_of(path: Path) -> Path:
    """The report of a configuration's last run, of a run's folder, or in a folder; the newest if it has several."""
    if not path.exists():
        fail(f"{path}: expected a run configuration or a folder with a report, found nothing")
    from pipelines.run_configuration import ConfigurationError, read_configuration
    from pipelines.store.artifacts import ArtifactError

    with one_error(ConfigurationError, ArtifactError, OSError, ValueError):
        if path.is_file():
            read_configuration(path)
            return _last_report(path)
        if path.resolve().parent.name == "runs" and any(path.glob("*.json")):
            from pipelines.report.two_runs import report_at

            return report_at(path).path("report.html")
        found = sorted(path.rglob("report.html"), key=lambda page: page.stat().st_mtime)
        if not found:
            fail(f"{path}: expected a report.html in this folder or below, found none. `hydralora run` writes one")
        return found[-1]


def _last_report(configuration: Path) -> Path:
    from pipelines.store.artifacts import ArtifactError
    from pipelines.store.io_manager import store_of

    store = store_of(configuration)
    try:
        return store.last("report").path("report.html")
    except ArtifactError:
        return store.last("corpus_report").path("report.html")


def comparison(first: Path, second: Path, out: Path) -> Path:
    """A page of two reports, and of the artifacts that they were made from if both are of stores."""
    from analysis.atomic_files import of_this_version
    from pipelines.store.artifacts import RECORD, ArtifactError

    folders = (first.parent, second.parent)
    with one_error(ArtifactError, OSError, ValueError), of_this_version(folders[0]):
        if all((folder / RECORD).exists() for folder in folders):
            from pipelines.report.two_runs import compare_runs, report_at

            return compare_runs(report_at(folders[0]), report_at(folders[1]), out)
        from analysis.report import write_comparison

        return write_comparison(*folders, out)
