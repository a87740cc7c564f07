"""General knowledge: ISO 3166 tables of countries and their subdivisions, as JSON in a distribution."""

import json
from collections.abc import Iterator

from analysis.sources.packages.package import Package, Pair


def harvest(package: Package) -> Iterator[Pair]:
    """Prompt: a place and what it is. Completion: the country it belongs to."""
    tables = {path.rsplit("/", 1)[-1]: path for path in package.select(lambda path: "iso3166-" in path)}
    if not {"iso3166-1.json", "iso3166-2.json"} <= set(tables):
        return
    countries = {row["alpha_2"]: row for row in json.loads(package.read(tables["iso3166-1.json"]))["3166-1"]}
    for place in json.loads(package.read(tables["iso3166-2.json"]))["3166-2"]:
        country = countries.get(place["code"].split("-")[0])
        if country is None:
            continue
        kind, name = place["type"].lower(), country.get("common_name", country["name"])
        prompt = f"Which country has a {kind} called {place['name']}, and what is its ISO 3166 code?"
        yield Pair("locate", prompt, f"{name}; {place['code']}", tables["iso3166-2.json"])
