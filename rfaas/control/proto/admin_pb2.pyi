from rfaas.control.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

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

class InventoryRequest(_message.Message):
    __slots__ = ("version", "hosts", "complete")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    version: int
    hosts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Host]
    complete: bool
    def __init__(self, version: _Optional[int] = ..., hosts: _Optional[_Iterable[_Union[_common_pb2.Host, _Mapping]]] = ..., complete: bool = ...) -> None: ...

class InventoryReply(_message.Message):
    __slots__ = ("hosts",)
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    hosts: int
    def __init__(self, hosts: _Optional[int] = ...) -> None: ...

class AccountsRequest(_message.Message):
    __slots__ = ("version", "since_unix_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    version: int
    since_unix_s: float
    def __init__(self, version: _Optional[int] = ..., since_unix_s: _Optional[float] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("lease_id", "lease_seq", "holder", "holder_name", "uid", "slice_id", "node", "job_id", "workers", "cores", "memory_bytes", "start_unix_s", "end_unix_s", "reason", "reason_code", "usage", "cost", "currency", "shared_by", "credit")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SEQ_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    SLICE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    END_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    SHARED_BY_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    lease_seq: int
    holder: bytes
    holder_name: str
    uid: int
    slice_id: bytes
    node: str
    job_id: str
    workers: int
    cores: int
    memory_bytes: int
    start_unix_s: float
    end_unix_s: float
    reason: str
    reason_code: int
    usage: _common_pb2.Usage
    cost: float
    currency: str
    shared_by: int
    credit: float
    def __init__(self, lease_id: _Optional[bytes] = ..., lease_seq: _Optional[int] = ..., holder: _Optional[bytes] = ..., holder_name: _Optional[str] = ..., uid: _Optional[int] = ..., slice_id: _Optional[bytes] = ..., node: _Optional[str] = ..., job_id: _Optional[str] = ..., workers: _Optional[int] = ..., cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., start_unix_s: _Optional[float] = ..., end_unix_s: _Optional[float] = ..., reason: _Optional[str] = ..., reason_code: _Optional[int] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., cost: _Optional[float] = ..., currency: _Optional[str] = ..., shared_by: _Optional[int] = ..., credit: _Optional[float] = ...) -> None: ...
