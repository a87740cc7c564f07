"""The paper's benchmarks in EleutherAI's lm-evaluation-harness (the extra `eval`), online or from local files.

The harness is imported when something is evaluated, not when this package is imported.
"""

from hydralora.harness.benchmarks import BENCHMARKS
from hydralora.harness.evaluation import BenchmarkScore, evaluate_benchmarks

__all__ = ["BENCHMARKS", "BenchmarkScore", "evaluate_benchmarks"]
