import threading
from collections.abc import Callable
from typing import Any, Final, Generic, ParamSpec, TypeVar

from typing_extensions import Buffer

from rfaas.client.engine import Engine
from rfaas.client.futures import Future
from rfaas.client.serial import Definition
from rfaas.config import CallSettings
from rfaas_transport._core import Frame, Loan, Request

P = ParamSpec("P")
R = TypeVar("R")

ELSEWHERE: Final[object]
ENDED: Final[object]

def dump_few(args: tuple[Any, ...]) -> bytes | None: ...
def load_few(pickled: bytes) -> tuple[Any, ...] | None: ...
def dump_one(value: object) -> bytes | None: ...
def load_one(pickled: bytes) -> Any: ...  # noqa: ANN401
def dump_few_with_array(args: tuple[Any, ...]) -> list[Any] | None: ...
def load_few_with_array(pickled: Buffer, data: Buffer) -> tuple[Any, ...] | None: ...
def dump_one_array(value: object) -> list[Any] | None: ...
def load_one_array(pickled: Buffer, data: Buffer) -> Any: ...  # noqa: ANN401

class Pending(Generic[R]):
    _request: Request | None
    _borrowing: Borrowing
    _own_state: str
    _result: R | None
    _exception: BaseException | None
    _first: object | None
    _withdraw: Callable[[bool], bool] | None
    _told: bool
    @property
    def _condition(self) -> threading.Condition: ...
    @_condition.setter
    def _condition(self, condition: threading.Condition) -> None: ...
    @property
    def has_condition(self) -> bool: ...
    _waiters: list[Any]
    _done_callbacks: list[Callable[[Any], object]]
    def give_up(self) -> None: ...
    def result(self, timeout: float | None = None) -> R: ...
    def settle(self) -> None: ...
    def _finish(self, value: R | None, error: BaseException | None) -> None: ...

class Borrowing:
    def __init__(
        self,
        loan: Loan,
        generation: int,
        look_up: Callable[[Callable[..., Any]], Definition | None],
        load: Callable[[Request, Frame | None, BaseException | None], tuple[object, BaseException | None]],
        limit_bytes: int,
        make_future: Callable[[], Future[Any]],
    ) -> None: ...
    @property
    def generation(self) -> int: ...
    def call(self, request: Request) -> int: ...
    def wait(self, request: Request, timeout_s: float | None) -> bool: ...
    def look(self) -> None: ...
    def withdraw(self, request: Request) -> bool: ...
    def give_up(self) -> None: ...

class Lender:
    borrowing: Borrowing | None

class Way:
    _engine: Engine
    _settings: CallSettings
    def __init__(self, engine: Engine, lender: Lender, settings: CallSettings) -> None: ...
    def _submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]: ...

def invoke_method(self: Way, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
