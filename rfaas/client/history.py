"""What a client writes to the event log: its calls, only if the log was asked for (docs/spec/005-event-log.md)."""

from __future__ import annotations

from rfaas.client.effects import Deliver, Dispatch, Fail, Withdrawn
from rfaas.client.records import Call, ChannelInfo
from rfaas.control.eventlog import EventLog
from rfaas.settings import Settings
from rfaas_transport.frame import Status


class History:
    """Writes submit, sent and resolved; does nothing when the log is off.

    Args:
        client_id: 16 bytes.
    """

    def __init__(self, client_id: bytes) -> None:
        self._log = EventLog("client", Settings.load().value("event_log"))
        self._client = client_id.hex()
        self._open: set[int] = set()  # submitted and not resolved; an interrupted step may come back to say it again

    @property
    def enabled(self) -> bool:
        """Whether anybody reads."""
        return self._log.enabled

    def submit(self, call: Call) -> None:
        """A call comes in."""
        if self._log.enabled and call.inv not in self._open:
            settings = call.settings
            self._log.write(
                "submit", client=self._client, inv=call.inv, idempotent=settings.idempotent, retries=settings.retries
            )
            self._open.add(call.inv)

    def sent(self, dispatch: Dispatch, info: ChannelInfo) -> None:
        """A call is about to be handed to a channel."""
        if self._log.enabled:
            self._log.write(
                "sent",
                client=self._client,
                inv=dispatch.call.inv,
                attempt=dispatch.call.attempt,
                call_id=dispatch.call_id,
                channel=info.number,
                lease=info.lease,
            )

    def resolved(self, ending: Deliver | Fail | Withdrawn) -> None:
        """A future is about to get its result, error or cancellation."""
        if not self._log.enabled or ending.call.inv not in self._open:
            return
        outcome, may_have_run, code = "cancelled", False, ""
        if isinstance(ending, Deliver):
            outcome, may_have_run = ("result" if ending.frame.status == Status.OK else "error"), True
        elif isinstance(ending, Fail):
            outcome, may_have_run, code = "error", ending.error.may_have_run, ending.error.code
        self._log.write(
            "resolved",
            client=self._client,
            inv=ending.call.inv,
            outcome=outcome,
            may_have_run=may_have_run,
            code=code,
        )
        self._open.discard(ending.call.inv)
