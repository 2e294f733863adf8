from rfaas.control.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HolderMessage(_message.Message):
    __slots__ = ("seq", "version", "ack", "ack_wanted", "hello", "want", "release_lease", "gone")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ACK_WANTED_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_LEASE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    version: int
    ack: int
    ack_wanted: bool
    hello: HolderHello
    want: _common_pb2.Want
    release_lease: ReleaseLease
    gone: HolderGone
    def __init__(self, seq: _Optional[int] = ..., version: _Optional[int] = ..., ack: _Optional[int] = ..., ack_wanted: bool = ..., hello: _Optional[_Union[HolderHello, _Mapping]] = ..., want: _Optional[_Union[_common_pb2.Want, _Mapping]] = ..., release_lease: _Optional[_Union[ReleaseLease, _Mapping]] = ..., gone: _Optional[_Union[HolderGone, _Mapping]] = ...) -> None: ...

class HolderHello(_message.Message):
    __slots__ = ("holder", "uid", "name", "held")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    uid: int
    name: str
    held: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, holder: _Optional[bytes] = ..., uid: _Optional[int] = ..., name: _Optional[str] = ..., held: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReleaseLease(_message.Message):
    __slots__ = ("holder", "lease_id", "reason_code")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    lease_id: bytes
    reason_code: int
    def __init__(self, holder: _Optional[bytes] = ..., lease_id: _Optional[bytes] = ..., reason_code: _Optional[int] = ...) -> None: ...

class HolderGone(_message.Message):
    __slots__ = ("holder", "reason_code")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    reason_code: int
    def __init__(self, holder: _Optional[bytes] = ..., reason_code: _Optional[int] = ...) -> None: ...

class AllocatorToHolder(_message.Message):
    __slots__ = ("seq", "version", "ack", "ack_wanted", "granted", "waiting", "denied", "ended")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ACK_WANTED_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    version: int
    ack: int
    ack_wanted: bool
    granted: Granted
    waiting: _common_pb2.Waiting
    denied: Denied
    ended: Ended
    def __init__(self, seq: _Optional[int] = ..., version: _Optional[int] = ..., ack: _Optional[int] = ..., ack_wanted: bool = ..., granted: _Optional[_Union[Granted, _Mapping]] = ..., waiting: _Optional[_Union[_common_pb2.Waiting, _Mapping]] = ..., denied: _Optional[_Union[Denied, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("terms", "core_ids", "node", "address")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    CORE_IDS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    terms: _common_pb2.LeaseTerms
    core_ids: _containers.RepeatedScalarFieldContainer[int]
    node: str
    address: str
    def __init__(self, terms: _Optional[_Union[_common_pb2.LeaseTerms, _Mapping]] = ..., core_ids: _Optional[_Iterable[int]] = ..., node: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Denied(_message.Message):
    __slots__ = ("holder", "request", "code", "hint")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    request: int
    code: str
    hint: str
    def __init__(self, holder: _Optional[bytes] = ..., request: _Optional[int] = ..., code: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("holder", "lease_id", "reason", "reason_code")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    lease_id: bytes
    reason: str
    reason_code: int
    def __init__(self, holder: _Optional[bytes] = ..., lease_id: _Optional[bytes] = ..., reason: _Optional[str] = ..., reason_code: _Optional[int] = ...) -> None: ...
