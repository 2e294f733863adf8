"""A client's core that a test steps by hand, with a clock of its own and what it asked for; no I/O."""

from rfaas.client.answers import RESULT
from rfaas.client.core import ClientCore
from rfaas.client.effects import Dispatch
from rfaas.client.events import (
    ChannelEnded,
    ChannelOpened,
    ChannelsCondemned,
    FrameArrived,
    SessionUp,
    Submit,
    Tick,
)
from rfaas.client.records import Call, ChannelInfo, Verdict
from rfaas.config import CallSettings
from rfaas_transport.errors import ReasonCode

LEASE = b"l" * 16
HELLO = 96
IDEMPOTENT = CallSettings(idempotent=True)


class Frame:
    def __init__(self, kind=RESULT, call_id=0, status=0, credits=1, text=""):
        self.kind, self.call_id, self.status, self.credits, self.text = kind, call_id, status, credits, text
        self.segments = ()


def info(number, lease=LEASE):
    return ChannelInfo(number, lease, lease_seq=7, epoch=3, slot=number, generation=1, node="n1")


class Client:
    """A core with a clock, and with what it asked for sorted by kind."""

    def __init__(self, max_workers=8, acquire_timeout_s=None, embedded=True):
        self.core = ClientCore(max_workers, acquire_timeout_s, seed=1)
        self.now_s = 100.0
        self.embedded = embedded
        self.effects = []

    def step(self, event):
        effects = self.core.step(event, self.now_s)
        self.effects += effects
        return effects

    def wait(self, duration_s):
        """Let time pass, stopping wherever the core wants to."""
        end_s = self.now_s + duration_s
        effects = []
        while (due_s := self.core.next_due_s()) is not None and due_s <= end_s:
            self.now_s = max(self.now_s, due_s)
            effects += self.step(Tick())
        self.now_s = end_s
        return effects + self.step(Tick())

    def submit(self, settings=None):
        call = Call(len(self.effects), "work", settings or CallSettings())
        return call, self.step(Submit(call))

    def join(self):
        return self.step(SessionUp(self.embedded))

    def worker(self, number, lease=LEASE):
        """A worker comes up and says HELLO."""
        self.step(ChannelOpened(info(number, lease)))
        return self.step(FrameArrived(number, Frame(HELLO)))

    def answer(self, channel, call_id, status=0, credits=1):
        return self.step(FrameArrived(channel, Frame(RESULT, call_id, status, credits)))

    def farewell(self, channel, last_started, reason=ReasonCode.WORKER_CRASHED, last_done=0, ended=True, **more):
        """The worker's channel ends and its agent says why."""
        effects = self.step(ChannelEnded(channel)) if ended else []
        verdict = Verdict(reason, last_started=last_started, last_done=last_done, **more)
        return effects + self.step(ChannelsCondemned((channel,), verdict))


def only(effects, kind):
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, f"{len(found)} {kind.__name__} in {effects}"
    return found[0]


def none(effects, kind):
    assert [effect for effect in effects if isinstance(effect, kind)] == []


def run_on(client, channel, settings=IDEMPOTENT):
    """Have a new worker on this channel run a new call."""
    client.worker(channel)
    call, effects = client.submit(settings)
    assert only(effects, Dispatch).channel == channel
    return call
