"""Sizes and durations: what people write, and what is refused."""

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas.units import parse_duration_s, parse_size_bytes, size_text
from rfaas_transport.errors import ConfigError

SIZES = [
    ("1GiB", 2**30),
    ("1 gib", 2**30),
    ("1.5 GB", 1_500_000_000),
    ("512M", 512 * 2**20),
    ("2T", 2**41),
    ("64kb", 64_000),
    ("7", 7),
    ("7B", 7),
    (4096, 4096),
    (numpy.int32(4096), 4096),
]
DURATIONS = [("30s", 30.0), ("250ms", 0.25), ("1h30m", 5400.0), ("2 min", 120.0), ("1.5", 1.5), (3, 3.0), (0, 0.0)]


@pytest.mark.parametrize(("written", "size_bytes"), SIZES)
def test_a_size_is_read(written, size_bytes):
    assert parse_size_bytes(written) == size_bytes


@pytest.mark.parametrize(
    "written", ["", "GiB", "1XB", "-1", "1e9", "0", 0, -5, 1.5, math.nan, True, None, b"1", "1 GiB 2", 2**63, "9" * 400]
)
def test_what_is_no_size_names_the_setting_and_the_remedy(written):
    with pytest.raises(ConfigError, match=r"memory=.*\n.*remedy: .*1GiB"):
        parse_size_bytes(written, name="memory")


@pytest.mark.parametrize(("written", "duration_s"), DURATIONS)
def test_a_duration_is_read(written, duration_s):
    assert parse_duration_s(written) == duration_s


@pytest.mark.parametrize("written", ["", "s", "1x", "-1s", float("nan"), float("inf"), True, None, "1s x", "1h 2"])
def test_what_is_no_duration_names_the_setting_and_the_remedy(written):
    with pytest.raises(ConfigError, match=r"hot_for_s=.*\n.*remedy: .*30s"):
        parse_duration_s(written, name="hot_for_s")


@pytest.mark.parametrize("written", [1e300, 1e10, "99999d", "9" * 400])
def test_a_duration_that_would_not_fit_nanoseconds_is_refused(written):
    with pytest.raises(ConfigError, match=r"call_timeout_s=.*too long"):
        parse_duration_s(written, name="call_timeout_s")


def test_a_duration_below_the_minimum_is_refused():
    with pytest.raises(ConfigError, match=r"at least 0\.5 s"):
        parse_duration_s("100ms", minimum_s=0.5)


@given(st.integers(1, 2**60))
def test_bytes_as_text_and_as_number_are_the_same(size_bytes):
    assert parse_size_bytes(size_bytes) == size_bytes
    assert parse_size_bytes(f"{size_bytes % 2**50 + 1}B") == size_bytes % 2**50 + 1


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (64 << 20, "64.0 MiB"),
        (1 << 30, "1.00 GiB"),
        (900 << 30, "900 GiB"),
        (3 << 41, "6.00 TiB"),
    ],
)
def test_a_size_is_written_in_three_figures(size_bytes, text):
    assert size_text(size_bytes) == text
