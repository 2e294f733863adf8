from collections.abc import Callable, Sequence
from typing import Any

from rfaas_executors._compiled import NativeFunction
from rfaas_executors._process import HeldDescriptors, StatePage
from rfaas_executors.calls import Outcome
from rfaas_executors.streams import Streams
from rfaas_transport._core import Channel, Frame

class HotCalls:
    n_calls: int
    def __init__(
        self,
        channel: Channel,
        page: StatePage,
        page_slot: int,
        lease_seq: int,
        epoch: int,
        index: int,
        function: Callable[..., Any] | NativeFunction,
        streams: Streams,
        make_context: Callable[[Frame], object],
        watched: int,
        held: HeldDescriptors,
        over_bytes: Callable[..., tuple[int, Sequence[Any], int]] | None = None,
        holder: str = "",
    ) -> None: ...
    def __call__(self) -> object | None: ...
    def run(self, soon_s: float, for_ns: int) -> Frame | tuple[Frame, Outcome | None, bool | None] | None: ...
