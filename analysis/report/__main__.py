"""`python -m analysis.report compare FIRST SECOND -o page.html`: compares two reports, as HTML or Markdown."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis.report import compare_reports, write_comparison


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the HTML page, or print Markdown if no output file is given."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("compare", help="what differs between two reports")
    compare.add_argument("first", type=Path, help="folder of a report")
    compare.add_argument("second", type=Path, help="folder of another")
    compare.add_argument("-o", "--output", type=Path, help="HTML page to write; without it, Markdown is printed")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.output is None:
            print(compare_reports(chosen.first, chosen.second), end="")
        else:
            print(write_comparison(chosen.first, chosen.second, chosen.output).resolve())
    except FileNotFoundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
