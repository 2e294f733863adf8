"""The bytes of frames in plain Python, sans-IO: names of the wire, an encoder and an incremental decoder.

The second, independent reader of the format: for vectors, diagnosis and peers in tests. The hot path is the C core and
must not come here for anything but the names. Spec: docs/spec/001-invocation.md sections 1, 2 and 4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag

from rfaas_transport._core import DEFAULT_MAX_PAYLOAD_BYTES, MAX_SEGMENTS, MAX_TEXT_BYTES, crc32c
from rfaas_transport.errors import PayloadTooLarge, ProtocolError

Bytes = bytes | bytearray | memoryview

VERSION = 1
HEADER_BYTES = 64
HEAD_BYTES_MAX = 8191 * 8

_HEADER = struct.Struct("<BBBBHHIHHQQQQQQ")
_EXTENSION = struct.Struct("<HHI")
_NUMBER = struct.Struct("<Q")
_CRC = slice(8, 12)


class Kind(IntEnum):
    """What a frame is about; blocks of 32."""

    DEFINE = 1
    CALL = 2
    RESULT = 3
    FETCH = 4
    BLOB = 5
    TAKE_BACK = 6
    TAKEN = 7
    CHECKPOINT = 8
    OUTPUT = 9
    READ = 32
    WRITE = 33
    SPAN = 34
    HELLO = 96
    CREDIT = 97
    ERROR = 98
    BYE = 99

    @staticmethod
    def is_credited(kind: int) -> bool:
        """Whether sending a frame of this kind consumes a credit."""
        return kind == Kind.CALL or 32 <= kind <= 95


class Status(IntEnum):
    """How a call or a frame ended."""

    OK = 0
    EXCEPTION = 1
    BAD_FUNCTION = 2
    BAD_ARGUMENTS = 3
    BAD_RESULT = 4
    TOO_LARGE = 5
    STALE = 6
    NOT_STARTED = 7
    FUNCTION_ERROR = 8
    OUT_OF_RANGE = 9
    NO_SPAN = 10
    UNKNOWN_KIND = 32
    UNKNOWN_EXTENSION = 33
    NOT_FOUND = 34
    BAD_FRAME = 35


class Flags(IntFlag):
    """Bits of the header; none has a meaning on `inproc` and `tcp`, where each is refused."""

    RENDEZVOUS = 1


class ExtensionType(IntEnum):
    """Extensions of the header; those with bit 15 must be understood."""

    SEGMENTS = 0x8001
    TEXT = 0x0002
    INVOCATION = 0x0004
    CHECKPOINT = 0x0007

    @staticmethod
    def must_be_understood(extension_type: int) -> bool:
        """Whether a receiver that does not know the type has to refuse the frame."""
        return bool(extension_type & 0x8000)


_NUMBERS = (ExtensionType.INVOCATION, ExtensionType.CHECKPOINT)  # their data is one u64


@dataclass(frozen=True, kw_only=True)
class Header:
    """Fields of a header; version, words, CRC and in_size are the encoder's business.

    `invocation` and `checkpoint` travel as extensions, and not at all while they are 0.
    """

    kind: int
    flags: int = 0
    attempt: int = 0
    status: int = 0
    function: int = 0
    credits: int = 0
    call_id: int = 0
    lease_seq: int = 0
    epoch: int = 0
    deadline_ns: int = 0
    in_size: int = 0
    out_size: int = 0
    invocation: int = 0
    checkpoint: int = 0


@dataclass(frozen=True)
class Frame:
    """A decoded frame. `extensions` are (type, data) of those this version has no meaning for, in order."""

    header: Header
    segments: tuple[bytes, ...] = ()
    text: str = ""
    extensions: tuple[tuple[int, bytes], ...] = ()

    @property
    def unknown_extension(self) -> int:
        """The first type that must be understood and isn't; 0 if none."""
        return next((kind for kind, _ in self.extensions if ExtensionType.must_be_understood(kind)), 0)


def encode(
    header: Header, segments: Sequence[Bytes] = (), text: str = "", extensions: Sequence[tuple[int, bytes]] = ()
) -> list[Bytes]:
    """Encode one frame as the list of buffers to send: its head, then the segments themselves, not copied.

    Args:
        header: `in_size` is ignored and computed.
        text: for people; at most MAX_TEXT_BYTES of UTF-8.
        extensions: (type, data) to add after those of this version.
    Raises:
        PayloadTooLarge: too many segments, or a head beyond HEAD_BYTES_MAX.
        struct.error: a field is out of its range.
    """
    encoded_text = text.encode()
    if len(segments) > MAX_SEGMENTS or len(encoded_text) > MAX_TEXT_BYTES:
        raise PayloadTooLarge(f"at most {MAX_SEGMENTS} segments and {MAX_TEXT_BYTES} bytes of text fit in a frame")
    sizes = [memoryview(segment).nbytes for segment in segments]
    tail = b""
    if len(sizes) > 1 or sizes == [0]:
        tail += _encode_extension(ExtensionType.SEGMENTS, struct.pack(f"<{len(sizes)}Q", *sizes))
    if encoded_text:
        tail += _encode_extension(ExtensionType.TEXT, encoded_text)
    for number_type, number in (
        (ExtensionType.INVOCATION, header.invocation),
        (ExtensionType.CHECKPOINT, header.checkpoint),
    ):
        if number:
            tail += _encode_extension(number_type, _NUMBER.pack(number))
    for extension_type, data in extensions:
        tail += _encode_extension(extension_type, data)
    if HEADER_BYTES + len(tail) > HEAD_BYTES_MAX:
        raise PayloadTooLarge(f"the extensions need {len(tail)} bytes")
    head = _pack_header(header, sum(sizes), tail, crc=0)
    return [_pack_header(header, sum(sizes), tail, crc=crc32c(head)), *segments]


def _pack_header(header: Header, in_size: int, tail: bytes, crc: int) -> bytes:
    fields = _HEADER.pack(
        VERSION,
        header.kind,
        header.flags,
        header.attempt,
        (HEADER_BYTES + len(tail)) // 8,
        header.status,
        crc,
        header.function,
        header.credits,
        header.call_id,
        header.lease_seq,
        header.epoch,
        header.deadline_ns,
        in_size,
        header.out_size,
    )
    return fields + tail


def _encode_extension(extension_type: int, data: bytes) -> bytes:
    return _EXTENSION.pack(extension_type, 0, len(data)) + data + bytes(-len(data) % 8)


class Decoder:
    """Cuts a stream of bytes into frames, fed in pieces of any size."""

    def __init__(self, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._buffer = bytearray()
        self._problem: str | None = None

    def feed(self, data: Bytes) -> list[Frame]:
        """Take more bytes; return the frames that are whole now.

        Raises:
            ProtocolError: the bytes are no frame; so each later call. Frames before it in the same call are lost.
        """
        if self._problem is not None:
            raise ProtocolError(self._problem)
        self._buffer += data
        frames: list[Frame] = []
        try:
            while (frame := self._next()) is not None:
                frames.append(frame)
        except ProtocolError as error:
            self._problem = error.message
            raise
        return frames

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not whole yet; 0 between frames, where a stream may end."""
        return len(self._buffer)

    def _next(self) -> Frame | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        head_bytes = _measure(self._buffer)
        if len(self._buffer) < head_bytes:
            return None
        empty, sizes = _decode_head(bytes(self._buffer[:head_bytes]))
        in_size = empty.header.in_size
        if in_size > self._max_payload_bytes:
            raise ProtocolError(f"a payload of {in_size} bytes is larger than the limit {self._max_payload_bytes}")
        if len(self._buffer) < head_bytes + in_size:
            return None
        payload = bytes(self._buffer[head_bytes : head_bytes + in_size])
        del self._buffer[: head_bytes + in_size]
        return replace(empty, segments=_cut(payload, sizes))


def _cut(payload: bytes, sizes: Sequence[int]) -> tuple[bytes, ...]:
    segments = []
    at = 0
    for size_bytes in sizes:
        segments.append(payload[at : at + size_bytes])
        at += size_bytes
    return tuple(segments)


def _measure(start: bytearray) -> int:
    """Length of the head that begins with these 64 bytes."""
    version, words = start[0], int.from_bytes(start[4:6], "little")
    if version != VERSION:
        raise ProtocolError(f"version {version} of the frame format, or no frame at all")
    if not HEADER_BYTES <= words * 8 <= HEAD_BYTES_MAX:
        raise ProtocolError(f"a head of {words} words")
    return words * 8


def _decode_head(head: bytes) -> tuple[Frame, list[int]]:
    """The frame without its payload, and the sizes of its segments."""
    (_, kind, flags, attempt, _, status, crc, *fields) = _HEADER.unpack_from(head)
    blanked = bytearray(head)
    blanked[_CRC] = bytes(4)
    if crc32c(blanked) != crc:
        raise ProtocolError("the head's checksum is wrong")
    if flags != 0:
        raise ProtocolError(f"flags {flags:#04x} have no meaning here")
    function, credits, call_id, lease_seq, epoch, deadline_ns, in_size, out_size = fields
    header = Header(
        kind=kind,
        attempt=attempt,
        status=status,
        function=function,
        credits=credits,
        call_id=call_id,
        lease_seq=lease_seq,
        epoch=epoch,
        deadline_ns=deadline_ns,
        in_size=in_size,
        out_size=out_size,
    )
    about, text, sizes, unknown = _read_extensions(head)
    if sizes is None:
        sizes = [in_size] if in_size else []
    if sum(sizes) != in_size or (about.get(ExtensionType.CHECKPOINT, 0) or -1) >= len(sizes):
        raise ProtocolError("the segments do not add up to the payload")
    header = replace(
        header,
        invocation=about.get(ExtensionType.INVOCATION, 0),
        checkpoint=about.get(ExtensionType.CHECKPOINT, 0),
    )
    return Frame(header, (), (text or b"").decode(errors="replace"), unknown), sizes


_Extensions = tuple[dict[int, int], bytes | None, list[int] | None, tuple[tuple[int, bytes], ...]]


def _read_extensions(head: bytes) -> _Extensions:
    """Numbers by type, text, sizes of segments, and what this version has no meaning for."""
    numbers: dict[int, int] = {}
    text: bytes | None = None
    sizes: list[int] | None = None
    unknown = []
    for extension_type, data in _extensions(head):
        if extension_type == ExtensionType.SEGMENTS and sizes is None and len(data) % 8 == 0:
            sizes = list(struct.unpack(f"<{len(data) // 8}Q", data))
        elif extension_type == ExtensionType.TEXT and text is None:
            text = data
        elif extension_type in _NUMBERS and not numbers.get(extension_type) and len(data) == _NUMBER.size:
            numbers[extension_type] = _NUMBER.unpack(data)[0]
        elif extension_type in ExtensionType.__members__.values():
            raise ProtocolError("an extension comes twice or has an impossible size")
        else:
            unknown.append((extension_type, data))
    return numbers, text, sizes, tuple(unknown)


def _extensions(head: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = HEADER_BYTES
    while at < len(head):
        extension_type, _, size_bytes = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if size_bytes > len(head) - at:
            raise ProtocolError("an extension is cut off")
        found.append((extension_type, head[at : at + size_bytes]))
        at += size_bytes + -size_bytes % 8
    return found
