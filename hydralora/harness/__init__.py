"""The paper's benchmarks through EleutherAI's lm-evaluation-harness (the extra `eval`), on-line or from local files.

The harness is imported when something is evaluated, not with this package.
"""

from hydralora.harness.benchmarks import BENCHMARKS
from hydralora.harness.evaluation import BenchmarkScore, evaluate_benchmarks

__all__ = ["BENCHMARKS", "BenchmarkScore", "evaluate_benchmarks"]
