from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Slice(_message.Message):
    __slots__ = ("slice_id", "node", "cores", "memory_bytes", "session_address", "key", "job_id", "end_in_s", "grace_s", "submit_time_s", "incarnation", "shared_by", "outside_jobs")
    SLICE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSION_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    END_IN_S_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_S_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARED_BY_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_JOBS_FIELD_NUMBER: _ClassVar[int]
    slice_id: bytes
    node: str
    cores: int
    memory_bytes: int
    session_address: str
    key: str
    job_id: str
    end_in_s: float
    grace_s: float
    submit_time_s: int
    incarnation: str
    shared_by: int
    outside_jobs: bool
    def __init__(self, slice_id: _Optional[bytes] = ..., node: _Optional[str] = ..., cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., session_address: _Optional[str] = ..., key: _Optional[str] = ..., job_id: _Optional[str] = ..., end_in_s: _Optional[float] = ..., grace_s: _Optional[float] = ..., submit_time_s: _Optional[int] = ..., incarnation: _Optional[str] = ..., shared_by: _Optional[int] = ..., outside_jobs: bool = ...) -> None: ...

class LeaseTerms(_message.Message):
    __slots__ = ("lease_id", "lease_seq", "slice_id", "epoch", "holder", "request", "workers", "cores_per_worker", "memory_bytes_per_worker", "ttl_s", "uid", "kind")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SEQ_FIELD_NUMBER: _ClassVar[int]
    SLICE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CORES_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    lease_seq: int
    slice_id: bytes
    epoch: int
    holder: bytes
    request: int
    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int
    ttl_s: float
    uid: int
    kind: str
    def __init__(self, lease_id: _Optional[bytes] = ..., lease_seq: _Optional[int] = ..., slice_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., holder: _Optional[bytes] = ..., request: _Optional[int] = ..., workers: _Optional[int] = ..., cores_per_worker: _Optional[int] = ..., memory_bytes_per_worker: _Optional[int] = ..., ttl_s: _Optional[float] = ..., uid: _Optional[int] = ..., kind: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("allocated_ns", "alive_ns", "running_ns", "hot_ns", "cpu_ns", "calls", "bytes_in", "bytes_out")
    ALLOCATED_NS_FIELD_NUMBER: _ClassVar[int]
    ALIVE_NS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_NS_FIELD_NUMBER: _ClassVar[int]
    HOT_NS_FIELD_NUMBER: _ClassVar[int]
    CPU_NS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    allocated_ns: int
    alive_ns: int
    running_ns: int
    hot_ns: int
    cpu_ns: int
    calls: int
    bytes_in: int
    bytes_out: int
    def __init__(self, allocated_ns: _Optional[int] = ..., alive_ns: _Optional[int] = ..., running_ns: _Optional[int] = ..., hot_ns: _Optional[int] = ..., cpu_ns: _Optional[int] = ..., calls: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ...) -> None: ...

class LeaseUsage(_message.Message):
    __slots__ = ("lease_id", "usage")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    usage: Usage
    def __init__(self, lease_id: _Optional[bytes] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class HeldLease(_message.Message):
    __slots__ = ("terms", "core_ids", "state", "spawned")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    CORE_IDS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SPAWNED_FIELD_NUMBER: _ClassVar[int]
    terms: LeaseTerms
    core_ids: _containers.RepeatedScalarFieldContainer[int]
    state: str
    spawned: str
    def __init__(self, terms: _Optional[_Union[LeaseTerms, _Mapping]] = ..., core_ids: _Optional[_Iterable[int]] = ..., state: _Optional[str] = ..., spawned: _Optional[str] = ...) -> None: ...

class Neighbours(_message.Message):
    __slots__ = ("host", "verdict", "watch", "slowdown", "tail", "share", "closed_for_s", "words")
    HOST_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FOR_S_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    host: str
    verdict: str
    watch: str
    slowdown: float
    tail: float
    share: float
    closed_for_s: float
    words: str
    def __init__(self, host: _Optional[str] = ..., verdict: _Optional[str] = ..., watch: _Optional[str] = ..., slowdown: _Optional[float] = ..., tail: _Optional[float] = ..., share: _Optional[float] = ..., closed_for_s: _Optional[float] = ..., words: _Optional[str] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("holder", "request", "workers", "cores_per_worker", "memory_bytes_per_worker", "placement", "kind", "lease_workers", "load")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CORES_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEASE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    request: int
    workers: int
    cores_per_worker: int
    memory_bytes_per_worker: int
    placement: str
    kind: str
    lease_workers: int
    load: str
    def __init__(self, holder: _Optional[bytes] = ..., request: _Optional[int] = ..., workers: _Optional[int] = ..., cores_per_worker: _Optional[int] = ..., memory_bytes_per_worker: _Optional[int] = ..., placement: _Optional[str] = ..., kind: _Optional[str] = ..., lease_workers: _Optional[int] = ..., load: _Optional[str] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("holder", "request", "missing", "reason", "code", "estimate_in_s", "basis")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_IN_S_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    holder: bytes
    request: int
    missing: int
    reason: str
    code: str
    estimate_in_s: float
    basis: str
    def __init__(self, holder: _Optional[bytes] = ..., request: _Optional[int] = ..., missing: _Optional[int] = ..., reason: _Optional[str] = ..., code: _Optional[str] = ..., estimate_in_s: _Optional[float] = ..., basis: _Optional[str] = ...) -> None: ...

class Host(_message.Message):
    __slots__ = ("name", "cores", "memory_bytes", "source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    cores: int
    memory_bytes: int
    source: str
    def __init__(self, name: _Optional[str] = ..., cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class SliceView(_message.Message):
    __slots__ = ("slice", "epoch", "state", "leases", "free_cores", "free_memory_bytes", "neighbours")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    FREE_CORES_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    slice: Slice
    epoch: int
    state: str
    leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    free_cores: int
    free_memory_bytes: int
    neighbours: Neighbours
    def __init__(self, slice: _Optional[_Union[Slice, _Mapping]] = ..., epoch: _Optional[int] = ..., state: _Optional[str] = ..., leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ..., free_cores: _Optional[int] = ..., free_memory_bytes: _Optional[int] = ..., neighbours: _Optional[_Union[Neighbours, _Mapping]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("alloc_epoch", "slices", "wants", "waiting", "counters", "hosts", "hosts_complete")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ALLOC_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    alloc_epoch: int
    slices: _containers.RepeatedCompositeFieldContainer[SliceView]
    wants: _containers.RepeatedCompositeFieldContainer[Want]
    waiting: _containers.RepeatedCompositeFieldContainer[Waiting]
    counters: _containers.ScalarMap[str, int]
    hosts: _containers.RepeatedCompositeFieldContainer[Host]
    hosts_complete: bool
    def __init__(self, alloc_epoch: _Optional[int] = ..., slices: _Optional[_Iterable[_Union[SliceView, _Mapping]]] = ..., wants: _Optional[_Iterable[_Union[Want, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[Waiting, _Mapping]]] = ..., counters: _Optional[_Mapping[str, int]] = ..., hosts: _Optional[_Iterable[_Union[Host, _Mapping]]] = ..., hosts_complete: bool = ...) -> None: ...
