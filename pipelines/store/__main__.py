"""`python -m pipelines.store clean DIRECTORY`: lists or removes what a store does not need, with its size on disk."""

import argparse
from pathlib import Path

from pipelines.store.artifacts import ArtifactError
from pipelines.store.cleaning import Item, clean


def main(arguments: list[str] | None = None) -> None:
    """List or remove leftovers and artifacts that no run refers to."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.store", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("clean", help="list what is not needed; removes nothing")
    command.add_argument("directory", type=Path, help="the store, as in resources.store.config.directory")
    command.add_argument("--delete", action="store_true", help="remove what is listed")
    command.add_argument("--keep-runs", type=_count, metavar="N", help="forget all runs but the N newest")
    given = parser.parse_args(arguments)
    try:
        items = clean(given.directory, delete=given.delete, keep_runs=given.keep_runs)
    except (ArtifactError, OSError) as error:
        raise SystemExit(str(error)) from None
    print(listing(items, deleted=given.delete))


def listing(items: list[Item], *, deleted: bool) -> str:
    """A line for each item, and a sum."""
    lines = [
        f"{item.size:>16,}  {item.path}  {item.why}{f'; stays: {item.kept}' if item.kept else ''}" for item in items
    ]
    going = [item for item in items if item.kept is None]
    done = "removed" if deleted else "can go; --delete removes them"
    return "\n".join(
        [*lines, f"{sum(item.size for item in going):>16,}  bytes in {len(going)} of {len(items)}: {done}"]
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number >= 0, got {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
