"""The programs of benchmarks/ are no package: their folders are where they look for each other."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS / "peers"), str(BENCHMARKS / "raw"), str(BENCHMARKS)]
