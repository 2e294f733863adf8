"""Price a million options in a hundred calls, check every price, and compare with one core.

    python examples/02_blackscholes.py
    python examples/02_blackscholes.py --options 5000000 --batch 50000
    python examples/02_blackscholes.py --executor process      # the same calls on the standard library's pool

Arrays go along as arguments and come back as results, as they would to any function. `price` is imported from the
module beside this script, so only its name travels: workers import from the same places as the program that calls.

How much faster it gets depends on how long a call computes beside how many bytes it moves. An option costs about
0.2 microseconds and moves 56 bytes, which is close to the worst case worth distributing. Try other sizes of --batch.

Checks: put-call parity of every option, the closed form in plain Python on a sample, and bit-for-bit equality with
the serial run. Exit status 1 if any fails.
"""

import argparse
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor

import numpy as np

import rfaas
from blackscholes import Array, Options, closed_form_error, market, parity_error, price, split

TOLERANCE = 1e-10  # units of money; prices are below 150, so rounding alone gives about 1e-13


def open_executor(name: str, max_workers: int | None) -> Executor:
    """The two are interchangeable here: both are `concurrent.futures.Executor`s."""
    return ProcessPoolExecutor(max_workers) if name == "process" else rfaas.Executor(max_workers)


def price_remotely(executor: Executor, batches: list[Options]) -> Array:
    """Price all batches, one a call; returns the prices in the order of the options and prints the speed."""
    started = time.perf_counter()
    executor.submit(price, batches[0]).result()
    print(f"first answer after {time.perf_counter() - started:.2f} s: a worker starts and imports numpy")

    started = time.perf_counter()
    prices = np.concatenate(list(executor.map(price, batches)), axis=1)
    report(f"{len(batches)} calls", prices.shape[1], time.perf_counter() - started)
    return prices


def price_serially(batches: list[Options]) -> Array:
    """The same work in this process, without any call."""
    started = time.perf_counter()
    prices = np.concatenate([price(batch) for batch in batches], axis=1)
    report("serially", prices.shape[1], time.perf_counter() - started)
    return prices


def report(how: str, n_options: int, elapsed_s: float) -> None:
    """Print one line of result."""
    print(f"{how:>12}: {n_options:,} options in {elapsed_s:.3f} s, {n_options / elapsed_s:,.0f} options/s")


def problems(options: Options, prices: Array, serial: Array, n_samples: int) -> list[str]:
    """Every check that fails, in words; prints what was found."""
    parity = parity_error(options, prices)
    closed_form = closed_form_error(options, prices, n_samples)
    print(f"largest put-call parity error {parity:.1e}; largest error of {n_samples:,} closed forms {closed_form:.1e}")
    found = []
    if not parity <= TOLERANCE:  # written so that NaN fails too
        found.append(f"put-call parity is violated by {parity:g}")
    if not closed_form <= TOLERANCE:
        found.append(f"prices differ from the closed form by {closed_form:g}")
    if not np.array_equal(prices, serial):
        found.append(f"{np.count_nonzero((prices != serial).any(axis=0)):,} options are priced otherwise than serially")
    return found


def main() -> int:
    """Price, check, compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--options", type=int, default=1_000_000, help="how many options (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10_000, help="options per call (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="at most this many calls at once (default: one a core)")
    parser.add_argument("--executor", choices=["rfaas", "process"], default="rfaas", help="who runs the calls")
    parser.add_argument("--samples", type=int, default=10_000, help="options checked one by one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1973, help="of the random options (default: %(default)s)")
    args = parser.parse_args()

    options = market(args.options, args.seed)
    batches = split(options, args.batch)
    with open_executor(args.executor, args.workers) as executor:
        prices = price_remotely(executor, batches)
    serial = price_serially(batches)

    found = problems(options, prices, serial, args.samples)
    for problem in found:
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
