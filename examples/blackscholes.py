"""Black-Scholes prices of European options: many at a time with numpy, and one at a time without it.

Examples 02 and 05 call `price` on other cores. `price_one` shares no line with it and exists to check it.
numpy has no error function, so `erfc` brings one; scipy would have it too, for one dependency more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Options(NamedTuple):
    """European options as five arrays of one length; index i is one option, priced as a call and as a put."""

    spot: Array
    strike: Array
    years: Array
    rate: Array
    volatility: Array


def market(n_options: int, seed: int) -> Options:
    """Draw `n_options` plausible options: in, at and out of the money, from a week to three years."""
    rng = np.random.default_rng(seed)
    return Options(
        spot=rng.uniform(50.0, 150.0, n_options),
        strike=rng.uniform(50.0, 150.0, n_options),
        years=rng.uniform(1 / 52, 3.0, n_options),
        rate=rng.uniform(0.0, 0.06, n_options),
        volatility=rng.uniform(0.05, 0.60, n_options),
    )


def split(options: Options, batch_size: int) -> list[Options]:
    """Cut the options into batches of at most `batch_size`; the batches are views, nothing is copied."""
    starts = range(0, len(options.spot), batch_size)
    return [Options(*(column[start : start + batch_size] for column in options)) for start in starts]


def price(options: Options) -> Array:
    """Price every option; returns shape (2, n): row 0 the calls, row 1 the puts.

    Source: Black and Scholes, "The Pricing of Options and Corporate Liabilities", 1973.
    """
    spot, strike, years, rate, volatility = options
    spread = volatility * np.sqrt(years)
    d1 = (np.log(spot / strike) + (rate + 0.5 * volatility**2) * years) / spread
    d2 = d1 - spread
    discounted = strike * np.exp(-rate * years)
    call = spot * normal_cdf(d1) - discounted * normal_cdf(d2)
    put = discounted * normal_cdf(-d2) - spot * normal_cdf(-d1)
    return np.stack([call, put])


def price_one(spot: float, strike: float, years: float, rate: float, volatility: float) -> tuple[float, float]:
    """Price one option as (call, put) in plain Python with the C library's error function."""
    spread = volatility * math.sqrt(years)
    d1 = (math.log(spot) - math.log(strike) + rate * years) / spread + spread / 2
    d2 = (math.log(spot) - math.log(strike) + rate * years) / spread - spread / 2
    discount = math.exp(-rate * years)

    def cdf(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    call = spot * cdf(d1) - strike * discount * cdf(d2)
    put = strike * discount * (1.0 - cdf(d2)) - spot * (1.0 - cdf(d1))
    return call, put


def parity_error(options: Options, prices: Array) -> float:
    """Largest violation of put-call parity, call - put = spot - discounted strike, in units of money."""
    forward = options.spot - options.strike * np.exp(-options.rate * options.years)
    return float(np.max(np.abs(prices[0] - prices[1] - forward)))


def closed_form_error(options: Options, prices: Array, n_samples: int, seed: int = 0) -> float:
    """Largest difference from `price_one` over `n_samples` options drawn at random, in units of money."""
    chosen = np.random.default_rng(seed).integers(0, len(options.spot), n_samples)
    worst = 0.0
    for i in chosen:
        call, put = price_one(*(float(column[i]) for column in options))
        worst = max(worst, abs(call - float(prices[0, i])), abs(put - float(prices[1, i])))
    return worst


def normal_cdf(x: Array) -> Array:
    """Probability that a standard normal variable is below x."""
    return 0.5 * erfc(x * -math.sqrt(0.5))


def erfc(x: Array) -> Array:
    """Complementary error function, within a few units in the last place of a double.

    Source: Cody, "Rational Chebyshev Approximations for the Error Function", Math. Comp. 23 (1969) 631-637;
    coefficients as in his later routine CALERF (highest power first here).
    """
    magnitude = np.abs(x)
    result = np.empty_like(magnitude)
    small = magnitude <= 0.46875
    large = magnitude > 4.0
    middle = ~(small | large)

    y = x[small]
    result[small] = 1.0 - y * _ratio(_SMALL, y * y)
    y = magnitude[middle]
    result[middle] = _exp_minus_square(y) * _ratio(_MIDDLE, y)
    y = magnitude[large]
    z = 1.0 / (y * y)
    result[large] = _exp_minus_square(y) / y * (1.0 / math.sqrt(math.pi) - z * _ratio(_LARGE, z))

    reflected = (x < 0.0) & ~small  # the two outer approximations hold for positive x; erfc(-x) = 2 - erfc(x)
    result[reflected] = 2.0 - result[reflected]
    return result


def _exp_minus_square(y: Array) -> Array:
    # exp(-y*y) loses digits as y grows, because y*y is rounded; a multiple of 1/16 has an exact square.
    coarse = np.floor(y * 16.0) / 16.0
    return np.exp(-coarse * coarse) * np.exp(-(y - coarse) * (y + coarse))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    above, below = (np.full_like(x, row[0]) for row in coefficients)
    for factor in coefficients[0][1:]:
        above *= x
        above += factor
    for factor in coefficients[1][1:]:
        below *= x
        below += factor
    return above / below


_SMALL = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_LARGE = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346725e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)
