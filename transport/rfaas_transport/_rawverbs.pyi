from typing import final

from rfaas_transport._rawlink import Bytes, Samples

@final
class VerbsLink:
    def __init__(
        self,
        fd: int,
        payload: Bytes,
        answer: Bytes,
        size_bytes: int,
        *,
        sleeps: bool = False,
        patience_s: float = 20.0,
    ) -> None: ...
    def ping(
        self,
        payload: Bytes,
        answer: Bytes,
        took_ns: Samples,
        *,
        pause_s: float = 0.0,
        budget_s: float = 1e6,
        last: bool = False,
    ) -> int: ...
    def serve(self) -> int: ...
