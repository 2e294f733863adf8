"""Cross-validated scores of a support vector classifier on scikit-learn's handwritten digits.

Examples 03 and 05 call `score` on other cores. The data set (1,797 scans of 8 x 8 pixels, part of scikit-learn)
is read where the call runs, once per process: a call carries three numbers there and brings one back, and neither
the client nor the network ever holds the scans. Data that only the client has goes along as an argument, as the
options of example 02 do.

The cache below is why this is a module: what a script defines in `__main__` travels by value, and a cache must not.
"""

from __future__ import annotations

import functools
import itertools
import sys
from typing import Any, NamedTuple

try:
    import numpy as np
    import numpy.typing as npt
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC
except ModuleNotFoundError as missing:
    sys.exit(f"this example needs {missing.name}: pip install '.[examples]'")

N_FOLDS = 5
COSTS = (0.1, 1.0, 10.0, 100.0)
GAMMAS = (1e-4, 3e-4, 1e-3, 3e-3)

Scans = npt.NDArray[Any]  # float64, one row of 64 pixels a scan
Labels = npt.NDArray[Any]  # int64, the digit each scan shows


class Task(NamedTuple):
    """One cell of the search: the classifier's two parameters, and which fifth of the scans tests it."""

    cost: float
    gamma: float
    fold: int


def tasks() -> list[Task]:
    """Every (parameters, fold) of the search."""
    return [Task(*cell) for cell in itertools.product(COSTS, GAMMAS, range(N_FOLDS))]


@functools.cache
def scans() -> tuple[Scans, Labels]:
    """The scans and their labels, read once per process."""
    images, labels = load_digits(return_X_y=True)
    return images, labels


def score(task: Task) -> float:
    """Train on four fifths of the scans; returns the share of the last fifth that is then read correctly.

    The training is deterministic: the same task gives the same score, to the last bit, on any core of one kind.
    """
    images, labels = scans()
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(images, labels)
    train, test = next(itertools.islice(folds, task.fold, None))
    classifier = SVC(C=task.cost, gamma=task.gamma).fit(images[train], labels[train])
    return float(np.mean(classifier.predict(images[test]) == labels[test]))


def mean_scores(scores: dict[Task, float]) -> dict[tuple[float, float], float]:
    """Average the folds: (cost, gamma) to mean accuracy."""
    by_parameters: dict[tuple[float, float], list[float]] = {}
    for task in sorted(scores):  # one order of adding up, or equal scores could give unequal means
        by_parameters.setdefault((task.cost, task.gamma), []).append(scores[task])
    return {parameters: sum(folds) / len(folds) for parameters, folds in by_parameters.items()}


def best_parameters(scores: dict[Task, float]) -> tuple[float, float]:
    """The (cost, gamma) of the highest mean accuracy; of equals, the smallest."""
    means = mean_scores(scores)
    return min(means, key=lambda parameters: (-means[parameters], parameters))
