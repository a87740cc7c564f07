"""Legal text: the clauses of the licence files that distributions carry."""

import re
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair, stable_order

LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|eula)", re.IGNORECASE)
MAX_FILE_BYTES = 1_000_000
MIN_CLAUSE = 160
# phrases that occur in one licence only; the first one found in the text before a clause names its licence
TITLES = {
    "Apache License": "Apache-2.0",
    "GNU LESSER GENERAL PUBLIC LICENSE": "LGPL",
    "GNU AFFERO GENERAL PUBLIC LICENSE": "AGPL",
    "GNU GENERAL PUBLIC LICENSE": "GPL",
    "Mozilla Public License": "MPL-2.0",
    "PYTHON SOFTWARE FOUNDATION LICENSE": "PSF-2.0",
    "Permission is hereby granted, free of charge": "MIT",
    "Redistribution and use in source and binary forms": "BSD",
    "Boost Software License": "BSL-1.0",
    "SIL OPEN FONT LICENSE": "OFL-1.1",
    "Creative Commons": "Creative Commons",
    "End User License Agreement": "EULA",
}


def harvest(package: Package) -> Iterator[Pair]:
    """Two tasks: name the licence of a clause, or continue the clause. Each clause is used for one of them."""
    paths = [
        path for path in package.paths if LICENCE_FILE.search(path.rsplit("/", 1)[-1]) and not path.endswith(".py")
    ]
    for path, text in package.sample(paths, MAX_FILE_BYTES, MAX_FILE_BYTES):
        for title, clause in _clauses(text):
            if stable_order(clause) < "8":
                yield Pair("name_licence", f"From which software licence is this clause?\n\n{clause}", title, path)
                continue
            head, tail = _halves(clause)
            yield Pair(
                "continue_clause", f"Continue this clause of a software licence ({title}).\n\n{head}", tail, path
            )


def _clauses(text: str) -> Iterator[tuple[str, str]]:
    title = None
    for paragraph in re.split(r"\n\s*\n", text):
        clause = " ".join(paragraph.split())
        title = next((name for phrase, name in TITLES.items() if phrase.lower() in clause.lower()), title)
        if title and len(clause) >= MIN_CLAUSE:
            yield title, clause


def _halves(clause: str) -> tuple[str, str]:
    words = clause.split(" ")
    middle = len(words) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])
