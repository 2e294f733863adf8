"""Search the best parameters of a classifier that reads handwritten digits, one (parameters, fold) a call.

    python examples/03_digits.py

80 small trainings of 0.03 to 0.2 s on 1,797 real scans: 16 pairs of parameters, each tested on every fifth of the
scans after training on the other four. The calls take different times, so results are taken as they come; a worker
that is done gets the next call at once and no core waits for the slowest.

`digits.score` reads the scans where it runs, once per worker (its module says why), so a call carries three numbers.

Check: best parameters and every single score equal those of the serial run exactly. Exit status 1 if not.
"""

import argparse
import sys
import time
from concurrent.futures import Future, as_completed

import rfaas
from digits import COSTS, GAMMAS, Task, best_parameters, mean_scores, score, tasks


def search(executor: rfaas.Executor) -> dict[Task, float]:
    """Score every task, one a call; prints whenever a training is better than all before."""
    futures: dict[Future[float], Task] = {executor.submit(score, task): task for task in tasks()}
    scores: dict[Task, float] = {}
    for future in as_completed(futures):
        task = futures[future]
        if future.result() > max(scores.values(), default=0.0):
            found = f"{future.result():.4f} with C={task.cost:g} gamma={task.gamma:g}"
            print(f"  {len(scores) + 1:2} done, best so far {found}")
        scores[task] = future.result()
    return scores


def print_table(scores: dict[Task, float]) -> None:
    """Mean accuracy of every pair of parameters."""
    means = mean_scores(scores)
    print("mean accuracy" + "".join(f"  gamma={gamma:<7g}" for gamma in GAMMAS))
    for cost in COSTS:
        print(f"     C={cost:<6g}" + "".join(f"  {means[cost, gamma]:<13.4f}" for gamma in GAMMAS))


def main() -> int:
    """Search with calls, search again serially, compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="at most this many calls at once (default: one a core)")
    args = parser.parse_args()

    started = time.perf_counter()
    with rfaas.Executor(max_workers=args.workers) as executor:
        scores = search(executor)
    remote_s = time.perf_counter() - started

    print_table(scores)
    cost, gamma = best_parameters(scores)
    print(f"best: C={cost:g} gamma={gamma:g}, {mean_scores(scores)[cost, gamma]:.4f} of the digits read correctly")

    started = time.perf_counter()
    serial = {task: score(task) for task in tasks()}
    serial_s = time.perf_counter() - started
    print(f"{len(scores)} calls {remote_s:.2f} s with starting the workers, serially {serial_s:.2f} s")

    different = [task for task in serial if scores[task] != serial[task]]
    for task in different:
        print(f"wrong: {task} scored {scores[task]!r}, serially {serial[task]!r}", file=sys.stderr)
    if best_parameters(serial) != (cost, gamma):
        print(f"wrong: the serial run finds {best_parameters(serial)} best", file=sys.stderr)
        return 1
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
