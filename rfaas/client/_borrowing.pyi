from collections.abc import Callable
from typing import Any, Final

from rfaas.client.futures import Future
from rfaas.client.serial import Definition
from rfaas.config import CallSettings
from rfaas_transport._core import Frame, Loan, Request

ELSEWHERE: Final[object]

class Borrowing:
    def __init__(
        self,
        loan: Loan,
        generation: int,
        look_up: Callable[[Callable[..., Any]], Definition | None],
        load: Callable[[Request, Frame | None, BaseException | None], tuple[object, BaseException | None]],
        limit_bytes: int,
    ) -> None: ...
    @property
    def generation(self) -> int: ...
    def invoke(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> object: ...
    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> Future[Any] | None: ...
    def outcome_of(self, request: Request) -> tuple[Any, BaseException | None]: ...
    def wait(self, request: Request, timeout_s: float | None) -> bool: ...
    def look(self) -> None: ...
    def withdraw(self, request: Request) -> bool: ...
    def give_up(self) -> None: ...
