from collections.abc import Callable, Sequence
from typing import Any, Final

from typing_extensions import Buffer

from rfaas.client.port import Port
from rfaas.client.serial import Definition
from rfaas.config import CallSettings
from rfaas_transport._core import Frame

ELSEWHERE: Final[object]

class Borrowing:
    def __init__(
        self,
        port: Port,
        generation: int,
        ask: Callable[[int, int, bytes | Sequence[Buffer], object], bytes | Frame | object | None],
        look_up: Callable[[Callable[..., Any]], tuple[Definition, int] | None],
        load: Callable[[Frame | None, BaseException | None], Any],
        limit_bytes: int,
    ) -> None: ...
    @property
    def port(self) -> Port: ...
    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> object: ...
