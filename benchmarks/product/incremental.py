"""What a further source costs: the job with all sources but the last, then with all, in one store.

    python benchmarks/product/incremental.py pipelines/configs/corpora.yaml --job corpus --corpora ../shared/corpora

For each asset: seconds of the first run and of the second, and why the second made it again (its own configuration, or
which inputs). Each run is a process of its own, as a user would start it. A third run changes nothing.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

RESULTS = Path(__file__).parents[1] / "results" / "incremental.json"


def main() -> None:
    """Run the job three times and write one row for each asset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--job", default="corpus")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="folder that keeps the store and the configuration")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ["HYDRALORA_CORPORA"] = str(arguments.corpora.resolve())
    values = yaml.safe_load(arguments.config.read_text())
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
    with contextlib.nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        values["resources"]["store"]["config"]["directory"] = str(store)
        sources = values["ops"]["raw_documents"]["config"]["sources"]
        os.environ["DAGSTER_HOME"] = str(Path(folder).resolve())
        runs = [run(values, chosen, arguments.job, Path(folder)) for chosen in (sources[:-1], sources, sources)]
    first, second, third = (made["artifacts"] for made in runs)
    rows = [row(name, first[name], second[name], first) for name in second]
    arguments.results.write_text(
        json.dumps(
            {
                "config": str(arguments.config),
                "job": arguments.job,
                "added": sources[-1]["name"],
                "wall_seconds": [round(made["wall_seconds"], 1) for made in runs],
                "built_in_the_third_run": [name for name in third if third[name]["built_at"] > runs[2]["started"]],
                "assets": rows,
            },
            indent=1,
        )
        + "\n"
    )
    for found in rows:
        print(f"{found['asset']:24}{found['cpu_first']:8.1f}{found['cpu_second']:8.1f}  {found['why']}")


def run(values: dict[str, Any], sources: list[dict[str, Any]], job: str, folder: Path) -> dict[str, Any]:
    """Run the job on some sources: its wall time, and the records of the artifacts it made or reused."""
    values["ops"]["raw_documents"]["config"]["sources"] = sources
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    store = Path(values["resources"]["store"]["config"]["directory"])
    started = time.time()
    subprocess.run([sys.executable, "-m", "pipelines.cli", "run", str(config), "--job", job], check=True)
    wall = time.time() - started
    newest = max((store / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    artifacts = {}
    for path in newest.glob("*.json"):
        named = json.loads(path.read_text())
        record = store / named["asset"] / named["fingerprint"] / "artifact.json"
        artifacts[named["asset"]] = {**json.loads(record.read_text()), "built_at": record.stat().st_mtime}
    ordered = sorted(artifacts.items(), key=lambda item: item[1]["built_at"])
    return {"started": started, "wall_seconds": wall, "artifacts": dict(ordered)}


def row(name: str, first: dict[str, Any], second: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """One asset: seconds, and what made it again."""
    reused = first["fingerprint"] == second["fingerprint"]
    why = [
        f"{given['asset']} changed"
        for given in second["inputs"].values()
        if given["fingerprint"] != before[given["asset"]]["fingerprint"]
    ]
    if first["config"] != second["config"]:
        why.insert(0, "its configuration names the source")
    return {
        "asset": name,
        "cpu_first": round(first["cpu_seconds"], 2),
        "cpu_second": 0.0 if reused else round(second["cpu_seconds"], 2),
        "wall_first": round(first["wall_seconds"], 2),
        "wall_second": 0.0 if reused else round(second["wall_seconds"], 2),
        "why": "reused" if reused else "; ".join(why),
    }


if __name__ == "__main__":
    main()
