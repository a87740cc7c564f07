"""`hydralora report`: finds a report."""

import webbrowser
from pathlib import Path

from pipelines.cli.output import fail, one_error


def print_report(path: Path, show: bool) -> None:
    """Print the path of a report, and open it if wanted."""
    found = report_of(path)
    print(found.resolve())
    if show:
        webbrowser.open(found.resolve().as_uri())


def report_of(path: Path) -> Path:
    """The report of a configuration's last run, or in a folder; the newest if the folder has several."""
    if not path.exists():
        fail(f"{path}: expected a run configuration or a folder with a report, found nothing")
    if path.is_dir():
        found = sorted(path.rglob("report.html"), key=lambda page: page.stat().st_mtime)
        if not found:
            fail(f"{path}: expected a report.html in this folder or below, found none. `hydralora run` writes one")
        return found[-1]
    from pipelines.run_configuration import ConfigurationError, read_configuration
    from pipelines.store.artifacts import ArtifactError
    from pipelines.store.io_manager import store_of

    with one_error(ConfigurationError, ArtifactError, OSError):
        read_configuration(path)
        store = store_of(path)
        try:
            return store.last("report").path("report.html")
        except ArtifactError:
            return store.last("corpus_report").path("report.html")
