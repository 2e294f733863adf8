"""CRC-32C: published values, and the CPU's instruction against the tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfaas_transport import _core

# The check value of the CRC catalogue, then RFC 3720 appendix B.4.
PUBLISHED = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
]


@pytest.mark.parametrize(("data", "expected"), PUBLISHED)
@pytest.mark.parametrize("implementation", [_core.crc32c, _core._crc32c_portable])
def test_published_values(implementation, data, expected):
    assert implementation(data) == expected


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_instruction_and_tables_agree(data, crc):
    assert _core.crc32c(data, crc) == _core._crc32c_portable(data, crc)


@given(st.binary(max_size=300), st.data())
def test_a_split_message_has_the_checksum_of_the_whole(data, draw):
    cut = draw.draw(st.integers(0, len(data)))
    assert _core.crc32c(data[cut:], _core.crc32c(data[:cut])) == _core.crc32c(data)


def test_unaligned_and_writable_buffers_are_read_in_place():
    data = bytearray(b"x" + b"123456789")
    assert _core.crc32c(memoryview(data)[1:]) == 0xE3069283


@pytest.mark.parametrize("not_bytes", ["123456789", 7, None, memoryview(b"12345678")[::2]])
def test_what_is_no_contiguous_buffer_of_bytes_is_refused(not_bytes):
    with pytest.raises((TypeError, ValueError, BufferError)):
        _core.crc32c(not_bytes)
