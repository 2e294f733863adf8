from rfaas.control.proto import common_pb2 as _common_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("version", "from_seq")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    version: int
    from_seq: int
    def __init__(self, version: _Optional[int] = ..., from_seq: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("seq", "kind", "slice_id", "lease_id", "holder", "node", "text")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SLICE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    kind: str
    slice_id: bytes
    lease_id: bytes
    holder: bytes
    node: str
    text: str
    def __init__(self, seq: _Optional[int] = ..., kind: _Optional[str] = ..., slice_id: _Optional[bytes] = ..., lease_id: _Optional[bytes] = ..., holder: _Optional[bytes] = ..., node: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("version", "end_slices", "end_allocator", "timeout_s", "reason_code")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    END_SLICES_FIELD_NUMBER: _ClassVar[int]
    END_ALLOCATOR_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    version: int
    end_slices: bool
    end_allocator: bool
    timeout_s: float
    reason_code: int
    def __init__(self, version: _Optional[int] = ..., end_slices: bool = ..., end_allocator: bool = ..., timeout_s: _Optional[float] = ..., reason_code: _Optional[int] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ("slices",)
    SLICES_FIELD_NUMBER: _ClassVar[int]
    slices: int
    def __init__(self, slices: _Optional[int] = ...) -> None: ...
