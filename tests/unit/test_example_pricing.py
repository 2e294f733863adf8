"""The pricing that examples 02 and 05 distribute is right, and their checks would notice if it were not."""

import math

import numpy as np
import pytest

from blackscholes import closed_form_error, erfc, market, normal_cdf, parity_error, price, price_one, split


def test_erfc_agrees_with_the_c_library_to_a_few_units_in_the_last_place():
    x = np.concatenate([np.linspace(-7.0, 26.0, 20_001), [0.0, 0.46875, -0.46875, 4.0, -4.0, np.nextafter(4.0, 5.0)]])
    expected = np.array([math.erfc(value) for value in x])
    assert np.max(np.abs(erfc(x) - expected) / expected) < 2e-15


def test_normal_cdf_of_known_quantiles():
    assert normal_cdf(np.array([0.0])) == pytest.approx([0.5], abs=0)
    assert normal_cdf(np.array([-1.959963984540054, 1.959963984540054])) == pytest.approx([0.025, 0.975], abs=1e-15)


def test_a_published_price():
    # Hull, "Options, Futures, and Other Derivatives", example of the Black-Scholes chapter: 4.76 and 0.81.
    call, put = price_one(spot=42.0, strike=40.0, years=0.5, rate=0.10, volatility=0.20)
    assert (round(call, 2), round(put, 2)) == (4.76, 0.81)


def test_batches_hold_every_option_once_and_in_order():
    options = market(1_001, seed=1)
    batches = split(options, 100)
    assert [len(batch.spot) for batch in batches] == [100] * 10 + [1]
    assert np.array_equal(np.concatenate([batch.strike for batch in batches]), options.strike)


def test_prices_of_batches_are_those_of_the_whole():
    options = market(1_001, seed=2)
    pieces = np.concatenate([price(batch) for batch in split(options, 100)], axis=1)
    np.testing.assert_allclose(pieces, price(options), rtol=0, atol=1e-12)


def test_both_checks_pass_on_right_prices_and_notice_one_wrong_price():
    options = market(200, seed=3)
    prices = price(options)
    assert parity_error(options, prices) < 1e-12
    assert closed_form_error(options, prices, n_samples=5_000) < 1e-12
    prices[1, 77] += 1e-6
    assert parity_error(options, prices) == pytest.approx(1e-6, rel=1e-3)
    assert closed_form_error(options, prices, n_samples=5_000) == pytest.approx(1e-6, rel=1e-3)


def test_the_same_seed_gives_the_same_market():
    assert all(np.array_equal(a, b) for a, b in zip(market(10, seed=4), market(10, seed=4), strict=True))
    assert not np.array_equal(market(10, seed=4).spot, market(10, seed=5).spot)
