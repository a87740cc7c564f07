"""The K sweep against scikit-learn: CPU seconds and SSE for K=1..20 on 15,000 documents of four domains.

`python benchmarks/corpus/kmeans_sweep.py` writes benchmarks/results/kmeans_sweep.json. scikit-learn runs in the same
process, with n_init=10, in the same space. One BLAS thread for both unless OMP_NUM_THREADS says otherwise.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import corpus_mixes as mixes
import numpy as np
from sklearn.cluster import KMeans

from analysis.clusters.choice.selection import select_num_clusters
from analysis.clusters.kmeans import sweep_kmeans
from analysis.features.lsa import TfidfLsa

RESULT = Path(__file__).parents[1] / "results" / "kmeans_sweep.json"
N_CLUSTERS = range(1, 21)
SEEDS = range(10)


def cpu_seconds(function):
    """The result of a call and its CPU seconds."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    domains = mixes.domains()
    mix = mixes.draw({name: domains[name] for name in ("math", "medical", "law", "code")}, 4, 15_000, 1, (0,))
    texts = mix.texts("prompt")
    features = TfidfLsa().fit(texts).transform(texts)
    select_num_clusters(features[:1000], sweep_kmeans(features[:1000]), texts[:1000])  # compiles

    sweeps = [cpu_seconds(lambda seed=seed: sweep_kmeans(features, N_CLUSTERS, random_state=seed)) for seed in SEEDS]
    _, select_seconds = cpu_seconds(lambda: select_num_clusters(features, sweeps[0][0], texts))
    fits, sklearn_seconds = cpu_seconds(
        lambda: np.array([KMeans(k, n_init=10, random_state=0).fit(features).inertia_ for k in N_CLUSTERS])
    )
    result = {
        "shape": features.shape,
        "sweep_cpu_seconds": [round(seconds, 3) for _, seconds in sweeps],
        "select_cpu_seconds": round(select_seconds, 3),
        "sklearn_cpu_seconds": round(sklearn_seconds, 3),
        "times_faster": round(sklearn_seconds / float(np.median([seconds for _, seconds in sweeps])), 1),
        "fits_within_one_percent": [
            int(sum((sweep.inertia <= 1.01 * fits).sum() for sweep, _ in sweeps)),
            len(fits) * len(sweeps),
        ],
        "sse_over_sklearn": [np.round(sweep.inertia / fits, 4).tolist() for sweep, _ in sweeps],
        "same_bytes": sweeps[0][0].labels.tobytes() == sweep_kmeans(features, N_CLUSTERS).labels.tobytes(),
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": os.environ["OMP_NUM_THREADS"],
            **{package: version(package) for package in ("numpy", "scikit-learn", "numba")},
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
