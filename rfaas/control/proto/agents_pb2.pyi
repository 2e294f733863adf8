from rfaas.control.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("seq", "version", "ack", "ack_wanted", "register", "accepted", "refused", "state_changed", "freed", "ending", "slice_empty", "usage_report", "workers_spawned", "neighbour_report")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ACK_WANTED_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    FREED_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    SLICE_EMPTY_FIELD_NUMBER: _ClassVar[int]
    USAGE_REPORT_FIELD_NUMBER: _ClassVar[int]
    WORKERS_SPAWNED_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_REPORT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    version: int
    ack: int
    ack_wanted: bool
    register: Register
    accepted: Accepted
    refused: Refused
    state_changed: StateChanged
    freed: Freed
    ending: Ending
    slice_empty: SliceEmpty
    usage_report: UsageReport
    workers_spawned: WorkersSpawned
    neighbour_report: NeighbourReport
    def __init__(self, seq: _Optional[int] = ..., version: _Optional[int] = ..., ack: _Optional[int] = ..., ack_wanted: bool = ..., register: _Optional[_Union[Register, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., state_changed: _Optional[_Union[StateChanged, _Mapping]] = ..., freed: _Optional[_Union[Freed, _Mapping]] = ..., ending: _Optional[_Union[Ending, _Mapping]] = ..., slice_empty: _Optional[_Union[SliceEmpty, _Mapping]] = ..., usage_report: _Optional[_Union[UsageReport, _Mapping]] = ..., workers_spawned: _Optional[_Union[WorkersSpawned, _Mapping]] = ..., neighbour_report: _Optional[_Union[NeighbourReport, _Mapping]] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("slice", "instance", "epoch", "held", "draining", "clean")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    slice: _common_pb2.Slice
    instance: bytes
    epoch: int
    held: _containers.RepeatedCompositeFieldContainer[_common_pb2.HeldLease]
    draining: bool
    clean: bool
    def __init__(self, slice: _Optional[_Union[_common_pb2.Slice, _Mapping]] = ..., instance: _Optional[bytes] = ..., epoch: _Optional[int] = ..., held: _Optional[_Iterable[_Union[_common_pb2.HeldLease, _Mapping]]] = ..., draining: bool = ..., clean: bool = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("lease_id", "epoch", "core_ids")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CORE_IDS_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    epoch: int
    core_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lease_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., core_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("lease_id", "epoch", "code", "hint")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    epoch: int
    code: str
    hint: str
    def __init__(self, lease_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., code: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class StateChanged(_message.Message):
    __slots__ = ("lease_id", "epoch", "state")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    epoch: int
    state: str
    def __init__(self, lease_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class Freed(_message.Message):
    __slots__ = ("lease_id", "epoch", "reason", "reason_code", "usage")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    epoch: int
    reason: str
    reason_code: int
    usage: _common_pb2.Usage
    def __init__(self, lease_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., reason: _Optional[str] = ..., reason_code: _Optional[int] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class UsageReport(_message.Message):
    __slots__ = ("epoch", "leases")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    leases: _containers.RepeatedCompositeFieldContainer[_common_pb2.LeaseUsage]
    def __init__(self, epoch: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[_common_pb2.LeaseUsage, _Mapping]]] = ...) -> None: ...

class WorkersSpawned(_message.Message):
    __slots__ = ("lease_id", "epoch", "why")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    epoch: int
    why: str
    def __init__(self, lease_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class NeighbourReport(_message.Message):
    __slots__ = ("epoch", "about", "leases")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    about: _common_pb2.Neighbours
    leases: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, epoch: _Optional[int] = ..., about: _Optional[_Union[_common_pb2.Neighbours, _Mapping]] = ..., leases: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Ending(_message.Message):
    __slots__ = ("slice_id", "epoch", "reason_code", "grace_s")
    SLICE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    slice_id: bytes
    epoch: int
    reason_code: int
    grace_s: float
    def __init__(self, slice_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., reason_code: _Optional[int] = ..., grace_s: _Optional[float] = ...) -> None: ...

class SliceEmpty(_message.Message):
    __slots__ = ("slice_id", "epoch")
    SLICE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    slice_id: bytes
    epoch: int
    def __init__(self, slice_id: _Optional[bytes] = ..., epoch: _Optional[int] = ...) -> None: ...

class AllocatorToAgent(_message.Message):
    __slots__ = ("seq", "version", "ack", "ack_wanted", "registered", "propose", "end_lease", "end_slice")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ACK_WANTED_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    PROPOSE_FIELD_NUMBER: _ClassVar[int]
    END_LEASE_FIELD_NUMBER: _ClassVar[int]
    END_SLICE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    version: int
    ack: int
    ack_wanted: bool
    registered: Registered
    propose: Propose
    end_lease: EndLease
    end_slice: EndSlice
    def __init__(self, seq: _Optional[int] = ..., version: _Optional[int] = ..., ack: _Optional[int] = ..., ack_wanted: bool = ..., registered: _Optional[_Union[Registered, _Mapping]] = ..., propose: _Optional[_Union[Propose, _Mapping]] = ..., end_lease: _Optional[_Union[EndLease, _Mapping]] = ..., end_slice: _Optional[_Union[EndSlice, _Mapping]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("epoch", "alloc_epoch")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ALLOC_EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    alloc_epoch: int
    def __init__(self, epoch: _Optional[int] = ..., alloc_epoch: _Optional[int] = ...) -> None: ...

class Propose(_message.Message):
    __slots__ = ("terms",)
    TERMS_FIELD_NUMBER: _ClassVar[int]
    terms: _common_pb2.LeaseTerms
    def __init__(self, terms: _Optional[_Union[_common_pb2.LeaseTerms, _Mapping]] = ...) -> None: ...

class EndLease(_message.Message):
    __slots__ = ("lease_id", "reason_code")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    reason_code: int
    def __init__(self, lease_id: _Optional[bytes] = ..., reason_code: _Optional[int] = ...) -> None: ...

class EndSlice(_message.Message):
    __slots__ = ("reason_code",)
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    reason_code: int
    def __init__(self, reason_code: _Optional[int] = ...) -> None: ...
