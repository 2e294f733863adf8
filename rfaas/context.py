"""`rfaas.current()`: what a function can learn of the call that it is, and say to it.

    def integrate(n):
        call = rfaas.current()
        state = pickle.loads(call.restored) if call.restored else start(n)
        while not state.done:
            if call.reclaim_event.is_set():
                call.checkpoint(pickle.dumps(state))
                sys.exit()  # gives the core back now; the next attempt goes on from here
            state.step()
        return state.result

Must not load what workers load: those make the object and name it (rfaas_transport.current_call).
Spec: docs/spec/001-invocation.md section 7.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol, TypeVar, cast

from rfaas_transport import current_call

CHECKPOINT_LIMIT_BYTES: Final = 8 << 20

H = TypeVar("H", bound=Callable[[], object])


class Context(Protocol):
    """One attempt of one call, seen from inside. Any thread of the worker may use it while the function runs."""

    @property
    def invocation_id(self) -> str:
        """48 hex digits, the same in every attempt of this call and in no other call: a key to find repetitions by."""

    @property
    def attempt(self) -> int:
        """How often this call was dispatched before: 0 the first time, higher each time, stays at 255.

        Dispatches count that were proven not to have started. Of two attempts of one invocation that write to the same
        place the one with the lower number is stale.
        """

    @property
    def fencing_token(self) -> int:
        """Epoch and number of the lease: `epoch << 64 | lease_seq`. Never falls on one slot (core) of a slice.

        A store that keeps the highest token it has seen of a slot can refuse a writer whose lease has ended since.
        Workers that replace each other within a lease share it; to tell attempts apart use `attempt`.
        """

    @property
    def restored(self) -> bytes | None:
        """What an earlier attempt saved last by `checkpoint`; None if none did."""

    def time_left(self) -> float | None:
        """Seconds until this worker is killed, by `call_timeout_s` or by a reclaim, whichever comes first.

        None: neither is due. Never below 0. Cheap: a system call.
        """

    @property
    def reclaim_event(self) -> threading.Event:
        """Set when the owner wants the core back, which is then taken after `time_left()` seconds.

        Asking for it starts a thread that ends with the call. The thread needs the GIL to set the event: code that
        keeps it for long (a C extension that does not release it) learns of the notice when it lets go, or not at all.
        `time_left()` needs no thread.
        """

    def on_reclaim(self, handler: H) -> H:
        """Run `handler()` once, in a thread, when the core is wanted back; at once if it is already. A decorator.

        It has until the kill, and no longer than a second once the function is over. What it raises goes to standard
        error. Needs the GIL, as `reclaim_event` does.
        """

    def checkpoint(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` to the client, for the next attempt (`restored`) or, if there is none, for `error.checkpoint`.

        Replaces what was saved before. Returns when it is out of this process's hands: a kill can't take it back any
        more. Saving does not end the call: return, or call `sys.exit()` after a notice to give the core back early.

        Raises:
            TypeError: it is no bytes; nothing was sent.
            PayloadTooLarge: it is longer than 8 MiB; nothing was sent.
            TimeoutError: the client has not taken it for 30 s; it may arrive still.
            ChannelClosed, ChannelBroken: the client is gone.
            RuntimeError: the call is over, or this is a child that the function forked; nothing was sent.
        """


def current() -> Context:
    """The call that this process runs.

    Raises:
        RuntimeError: it runs none: this is no worker, or the function has returned.
    """
    call = current_call.get_current()
    if call is None:
        raise RuntimeError(
            "rfaas.current() has no call here: it answers inside a function that an rfaas.Executor runs, "
            "while that function runs"
        )
    return cast(Context, call)
