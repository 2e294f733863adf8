from rfaas.control.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobsReport(_message.Message):
    __slots__ = ("version", "ended", "alive", "alive_age_s", "ending", "trusted_for_s", "hosts", "hosts_complete", "given_nodes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    ALIVE_AGE_S_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_FOR_S_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    GIVEN_NODES_FIELD_NUMBER: _ClassVar[int]
    version: int
    ended: _containers.RepeatedCompositeFieldContainer[JobEnded]
    alive: JobList
    alive_age_s: float
    ending: _containers.RepeatedCompositeFieldContainer[JobEnding]
    trusted_for_s: float
    hosts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Host]
    hosts_complete: bool
    given_nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., ended: _Optional[_Iterable[_Union[JobEnded, _Mapping]]] = ..., alive: _Optional[_Union[JobList, _Mapping]] = ..., alive_age_s: _Optional[float] = ..., ending: _Optional[_Iterable[_Union[JobEnding, _Mapping]]] = ..., trusted_for_s: _Optional[float] = ..., hosts: _Optional[_Iterable[_Union[_common_pb2.Host, _Mapping]]] = ..., hosts_complete: bool = ..., given_nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class JobEnded(_message.Message):
    __slots__ = ("job_id", "submit_time_s", "why")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_S_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    submit_time_s: int
    why: str
    def __init__(self, job_id: _Optional[str] = ..., submit_time_s: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class JobEnding(_message.Message):
    __slots__ = ("job_id", "submit_time_s", "reason_code")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_S_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    submit_time_s: int
    reason_code: int
    def __init__(self, job_id: _Optional[str] = ..., submit_time_s: _Optional[int] = ..., reason_code: _Optional[int] = ...) -> None: ...

class JobRef(_message.Message):
    __slots__ = ("job_id", "submit_time_s")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_S_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    submit_time_s: int
    def __init__(self, job_id: _Optional[str] = ..., submit_time_s: _Optional[int] = ...) -> None: ...

class JobList(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobRef]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobRef, _Mapping]]] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("alloc_epoch", "slices_ended")
    ALLOC_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SLICES_ENDED_FIELD_NUMBER: _ClassVar[int]
    alloc_epoch: int
    slices_ended: int
    def __init__(self, alloc_epoch: _Optional[int] = ..., slices_ended: _Optional[int] = ...) -> None: ...

class OffersSnapshotRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...
